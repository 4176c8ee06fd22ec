"""The soft NIC's mailbox: what guests do to their VFs, as requests.

A guest that changes its interface's MAC, adds a macvlan, joins a group or goes promiscuous asks
for that. Nothing here has an effect on the wire; that comes with ``Nic.answer``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from vfd.nic.soft.rtnl import (
    AF_INET,
    AF_INET6,
    IFF_ALLMULTI,
    IFF_PROMISC,
    Link,
    Membership,
    Neighbour,
)
from vfd.policy.addresses import is_multicast
from vfd.policy.requests import Grants, Request, RequestKind

Place = tuple[int | None, int]
"""Where a netdev is: the id of its namespace (None: the listener's own) and its index there."""

_STACKED = frozenset({"macvlan", "macvtap", "vlan"})
"""Devices that receive under a MAC of their own through the device below."""
_GROUP_MACS = {AF_INET: "01:00:5e:", AF_INET6: "33:33:"}
"""How the MACs of each family's groups begin."""
_MOST_DEVICES, _MOST_GROUPS, _MOST_ADDRESSES = 4096, 1024, 1024
"""What is remembered of the devices in a guest's namespace, of each one's groups, and of addresses
that an interface lists: a guest may make as many as it likes, and must not crowd out others."""
_MOST_SOURCES = 256
"""What is remembered of the MACs that a tap's guest sent from; more than it can be granted."""


@dataclass(slots=True)
class _Guest:
    """What one guest's interface shows, and so what was asked for."""

    mac: str
    mtu: int
    up: bool = False
    promisc: bool = False
    allmulti: bool = False
    macs: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    unicast: set[str] = field(default_factory=set)
    """Secondary unicast addresses set on the interface itself."""
    multicast: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Stacked:
    below: int
    mac: str
    up: bool


@dataclass(slots=True)
class _Home:
    """What is known of a namespace with a guest end in it, by device."""

    stacked: dict[int, _Stacked] = field(default_factory=dict)
    joined: dict[int, set[str]] = field(default_factory=dict)
    """Groups, as MACs, by the device that joined them. A macvlan's may come before it does."""


class Guests:
    """Follows the guests' interfaces. Fed with what the kernel tells, answers with requests."""

    def __init__(self) -> None:
        self._guests: dict[int, _Guest] = {}
        self._places: dict[Place, int] = {}
        self._of: dict[int, Place] = {}
        """The same the other way round."""
        self._homes: dict[int | None, _Home] = {}
        self._silent: set[int] = set()

    def add(self, vfid: int, place: Place, *, mac: str, mtu: int, grants: Grants) -> None:
        """A VF's guest end is at ``place``, with ``mac`` and ``mtu`` in force."""
        up = self._of.get(vfid) == place and self.is_up(vfid)
        before = self._drop(vfid)
        self._places[place] = vfid
        self._of[vfid] = place
        self._homes.setdefault(place[0], _Home())
        if before is not None:
            self._prune(before[0])
        self._guests[vfid] = _Guest(
            mac=mac,
            mtu=mtu,
            up=up,
            promisc=grants.promisc,
            allmulti=grants.allmulti,
            macs=grants.macs,
            groups=grants.groups,
        )

    def remove(self, vfid: int) -> None:
        """The VF's guest end is gone, or has moved; what was asked for is forgotten."""
        before = self._drop(vfid)
        if before is not None:
            self._prune(before[0])

    def _drop(self, vfid: int) -> Place | None:
        self._guests.pop(vfid, None)
        place = self._of.pop(vfid, None)
        if place is not None:
            del self._places[place]
        return place

    def _prune(self, nsid: int | None) -> None:
        """Forgets a namespace without guest ends, and devices above one that is gone."""
        if not any(place[0] == nsid for place in self._of.values()):
            self._homes.pop(nsid, None)
            return
        home = self._homes[nsid]
        for index in [i for i in home.stacked if self._vf((nsid, i)) is None]:
            del home.stacked[index]

    def hold(self, vfid: int, held: bool) -> None:
        """A tap's guest comes, or goes with all that it joined. One that holds it is up."""
        guest = self._guests.get(vfid)
        if guest is None:
            return
        guest.up = held
        if not held:
            guest.groups = frozenset()
            nsid, index = self._of[vfid]
            self._homes[nsid].joined.pop(index, None)

    def at(self, place: Place) -> int | None:
        return self._places.get(place)

    def place(self, vfid: int) -> Place | None:
        return self._of.get(vfid)

    def is_up(self, vfid: int) -> bool:
        """Whether the guest has its interface up."""
        guest = self._guests.get(vfid)
        return guest is not None and guest.up

    def mac(self, vfid: int) -> str:
        """The MAC that the guest's interface shows, granted or not."""
        guest = self._guests.get(vfid)
        return guest.mac if guest else ""

    def mtu(self, vfid: int) -> int:
        """The MTU of the guest's interface as it is, granted or not; 0: unknown."""
        guest = self._guests.get(vfid)
        return guest.mtu if guest else 0

    def roomy(self, mtu: int) -> set[int]:
        """The VFs whose guest ends are in another namespace and take frames of that MTU."""
        return {v for v, place in self._of.items() if place[0] is not None
                and self._guests[v].mtu >= mtu}  # fmt: skip

    def expect(self, vfid: int, *, mac: str | None = None, mtu: int | None = None) -> None:
        """The host itself is about to set these on the guest end: no request of the guest's."""
        guest = self._guests.get(vfid)
        if guest:
            guest.mac = mac or guest.mac
            guest.mtu = mtu or guest.mtu

    def hush(self, vfids: Iterable[int]) -> None:
        """Listings of what these guests have follow: nothing is asked until ``ask``."""
        self._silent.update(vfids)

    def ask(self, vfids: Iterable[int]) -> list[Request]:
        """The listings are complete: what differs from what was asked for so far."""
        self._silent.difference_update(vfids)
        return self._wanted(*vfids)

    def forget_groups(self, nsid: int | None, families: Iterable[int]) -> None:
        """A full listing of the namespace's groups of these address families follows."""
        listed = tuple(_GROUP_MACS[family] for family in families)
        home = self._homes.get(nsid, _Home())
        for index, groups in list(home.joined.items()):
            kept = {mac for mac in groups if not mac.startswith(listed)}
            if kept:
                home.joined[index] = kept
            else:
                del home.joined[index]

    def keep_groups(self, vfid: int) -> None:
        """The IPv4 groups granted before count as joined: this kernel can't say whether they
        still are, and a guest reports a group only once."""
        nsid, index = self._of[vfid]
        groups = {m for m in self._guests[vfid].groups if m.startswith(_GROUP_MACS[AF_INET])}
        if groups:
            self._homes[nsid].joined.setdefault(index, set()).update(groups)

    def link(self, nsid: int | None, link: Link) -> list[Request]:
        """A link as it is now."""
        place = (nsid, link.index)
        vfid = self._places.get(place)
        if vfid is not None:
            return self._interface(vfid, link)
        home = self._homes.get(nsid)
        if not home or link.kind not in _STACKED or link.link is None or link.link_nsid is not None:
            return []
        before = self._vf(place)
        if link.index in home.stacked or len(home.stacked) < _MOST_DEVICES:
            home.stacked[link.index] = _Stacked(link.link, link.mac, link.up)
        after = self._vf(place)
        if after is None:
            home.stacked.pop(link.index, None)
        return self._wanted(before) + (self._wanted(after) if after != before else [])

    def gone(self, nsid: int | None, index: int) -> list[Request]:
        """A device in a guest's namespace is no longer there (the VF itself: see ``remove``)."""
        vfid = self._vf((nsid, index))
        home = self._homes.get(nsid, _Home())
        home.joined.pop(index, None)
        if home.stacked.pop(index, None) is None:
            return []
        return self._wanted(vfid)

    def neighbour(self, nsid: int | None, entry: Neighbour, added: bool) -> list[Request]:
        """``bridge fdb add|del MAC dev VF self``: the interface's own address lists."""
        vfid = self._places.get((nsid, entry.index))
        if vfid is None or not entry.self_entry or not entry.mac:
            return []
        guest = self._guests[vfid]
        listed = guest.multicast if is_multicast(entry.mac) else guest.unicast
        if not added:
            listed.discard(entry.mac)
        elif len(listed) < _MOST_ADDRESSES:
            listed.add(entry.mac)
        return self._wanted(vfid)

    def listed(self, vfid: int, macs: Collection[str] | None) -> None:
        """All that the interface's own address lists hold (None: nobody can say, so what was asked
        for stays). What isn't there for a device above or an IP group was set on it."""
        guest = self._guests[vfid]
        if macs is None:
            macs = guest.macs | guest.groups
        nsid = self._of[vfid][0]
        home = self._homes[nsid]
        above = {u.mac for index, u in home.stacked.items() if self._vf((nsid, index)) == vfid}
        joined = {
            mac
            for index, groups in home.joined.items()
            if self._vf((nsid, index)) == vfid
            for mac in groups
        }
        unicast = {mac for mac in macs if not is_multicast(mac)} - above
        multicast = {mac for mac in macs if is_multicast(mac)} - joined
        guest.unicast = set(sorted(unicast)[:_MOST_ADDRESSES])
        guest.multicast = set(sorted(multicast)[:_MOST_ADDRESSES])

    def membership(
        self, nsid: int | None, members: Iterable[Membership], joined: bool
    ) -> list[Request]:
        """IP multicast groups joined or left on devices of the namespace."""
        home = self._homes.get(nsid)
        if home is None:
            return []
        changed: list[int] = []
        for member in members:
            known = self._joined_of(home, nsid, member.index)
            if known is None:
                continue
            if joined and len(known) < _MOST_GROUPS:
                known.add(member.mac)
            elif not joined:
                known.discard(member.mac)
            vfid = self._vf((nsid, member.index))
            if vfid is None:
                continue
            self._guests[vfid].multicast.discard(member.mac)
            if vfid not in changed:
                changed.append(vfid)
        return self._wanted(*changed)

    def _joined_of(self, home: _Home, nsid: int | None, index: int) -> set[str] | None:
        """The groups of a device; None: nothing more can be remembered in its namespace. Before
        that, what no VF has to do with is forgotten."""
        if index not in home.joined and len(home.joined) >= _MOST_DEVICES:
            for other in [i for i in home.joined if self._vf((nsid, i)) is None]:
                del home.joined[other]
            if len(home.joined) >= _MOST_DEVICES:
                return None
        return home.joined.setdefault(index, set())

    def _vf(self, place: Place) -> int | None:
        """The VF that a device is, or is stacked on."""
        seen = set()
        while place not in self._places:
            home = self._homes.get(place[0])
            upper = home.stacked.get(place[1]) if home else None
            if upper is None or place in seen:
                return None
            seen.add(place)
            place = (place[0], upper.below)
        return self._places[place]

    def _interface(self, vfid: int, link: Link) -> list[Request]:
        guest = self._guests[vfid]
        asked: list[Request] = []
        guest.up = link.up
        if link.mac and link.mac != guest.mac:
            guest.mac = link.mac
            asked.append(Request(vfid, RequestKind.DEFAULT_MAC, mac=link.mac))
        if link.mtu and link.mtu != guest.mtu:
            guest.mtu = link.mtu
            asked.append(Request(vfid, RequestKind.MTU, mtu=link.mtu))
        promisc = bool(link.promiscuity or link.flags & IFF_PROMISC)
        if promisc != guest.promisc:
            guest.promisc = promisc
            asked.append(Request(vfid, RequestKind.PROMISC, on=promisc))
        allmulti = bool(link.allmulti or link.flags & IFF_ALLMULTI)
        if allmulti != guest.allmulti:
            guest.allmulti = allmulti
            asked.append(Request(vfid, RequestKind.ALLMULTI, on=allmulti))
        return asked + self._wanted(vfid)

    def _wanted(self, *vfids: int | None) -> list[Request]:
        """Requests for the further MACs and the groups that the guests' devices now need. A device
        that is down is given nothing and asks for nothing: VFs that wait for a guest are quiet."""
        asking = {v for v in vfids if v is not None and v in self._guests} - self._silent
        if not asking:
            return []
        macs = {v: set(self._guests[v].unicast) for v in asking}
        groups = {v: set(self._guests[v].multicast) for v in asking}
        for nsid in {self._of[v][0] for v in asking}:
            home = self._homes[nsid]
            for index, upper in home.stacked.items():
                if upper.up and upper.mac and (vfid := self._vf((nsid, index))) in asking:
                    macs[vfid].add(upper.mac)
            for index, joined in home.joined.items():
                vfid = self._vf((nsid, index))
                if vfid in asking and self._guests[vfid].up:
                    groups[vfid] |= joined
        return [request for v in sorted(asking) for request in self._asks(v, macs[v], groups[v])]

    def _asks(self, vfid: int, macs: set[str], groups: set[str]) -> list[Request]:
        guest = self._guests[vfid]
        macs.discard(guest.mac)
        asked = [
            Request(vfid, kind, mac=mac)
            for kind, some in (
                (RequestKind.REMOVE_MAC, guest.macs - macs),
                (RequestKind.ADD_MAC, macs - guest.macs),
                (RequestKind.LEAVE_GROUP, guest.groups - groups),
                (RequestKind.JOIN_GROUP, groups - guest.groups),
            )
            for mac in sorted(some)
        ]
        guest.macs, guest.groups = frozenset(macs), frozenset(groups)
        return asked


class TapGuests:
    """The guests behind taps are virtual machines, heard only by what they send: a source MAC
    that isn't the VF's asks for that MAC, an IGMP or MLD report for its group."""

    def __init__(self) -> None:
        self._asked: dict[int, dict[str, None]] = {}
        """The last that each asked for, the latest at the end: a guest may invent MACs for ever."""

    def source(self, vfid: int, mac: str, *, own: bool) -> list[Request]:
        """A frame came from a MAC that the VF doesn't own. Asked for once. ``own``: it may be the
        machine's own, and so the default MAC; else it is a further one."""
        asked = self._asked.setdefault(vfid, {})
        if mac in asked:
            return []
        if len(asked) >= _MOST_SOURCES:
            del asked[next(iter(asked))]
        asked[mac] = None
        kind = RequestKind.DEFAULT_MAC if own and len(asked) == 1 else RequestKind.ADD_MAC
        return [Request(vfid, kind, mac=mac)]

    def forget(self, vfid: int) -> None:
        """What was refused may be granted now: the VF has another guest, or another policy."""
        self._asked.pop(vfid, None)
