"""The soft NIC's mailbox: what guests do to their VFs, as requests.

A guest that changes its interface's MAC, adds a macvlan, joins a group or goes promiscuous asks
for that. Nothing here has an effect on the wire; that comes with ``Nic.answer``.

What is told of one device costs as much as that device, however many there are; what a guest wants
is compared with what it asked for once for all that was told, in ``asks``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

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

STACKED = frozenset({"macvlan", "macvtap", "vlan"})
"""Devices that receive under a MAC of their own through the device below."""
_GROUP_MACS = {AF_INET: "01:00:5e:", AF_INET6: "33:33:"}
"""How the MACs of each family's groups begin."""
_MOST_DEVICES, _MOST_GROUPS, _MOST_ADDRESSES = 4096, 1024, 1024
"""What is remembered of the devices above a VF, of the groups of each device of a namespace, and of
addresses that an interface lists: a guest may make as many as it likes, and must not crowd out
others."""
_MOST_ASKED = 256
"""Further MACs, and groups, that a guest asks for at a time: four times what it can be granted.
What it has beyond that is asked for when it gives others up."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What an interface shows of itself."""

    mac: str
    mtu: int
    promisc: bool = False
    allmulti: bool = False
    promiscuity: int = 0
    """How many need it to be promiscuous beside who set it so."""


@dataclass(slots=True)
class _Guest:
    """What one guest's interface shows, and what was asked for."""

    shown: _Shown
    asked: _Shown
    up: bool = False
    macs: frozenset[str] = frozenset()
    """Further MACs asked for so far. So are ``groups``."""
    groups: frozenset[str] = frozenset()
    unicast: dict[str, None] = field(default_factory=dict)
    """Secondary unicast addresses set on the interface itself, in the order of their coming."""
    multicast: dict[str, None] = field(default_factory=dict)
    above: dict[str, int] = field(default_factory=dict)
    """MACs of devices above that are up, and of how many each is."""
    joined: dict[str, int] = field(default_factory=dict)
    """Groups of the interface and of devices above, and how many joined each."""
    devices: int = 0
    """Above it."""
    filtered: bool = False
    """It had unicast addresses beside its own when it was looked at last."""

    @property
    def has_further(self) -> bool:
        return bool(self.unicast or self.above)

    def wanted(self) -> _Shown:
        """As which it is asked for. A veth with further addresses is promiscuous for them in the
        kernel, which nobody asked for (net/core/dev.c, __dev_set_rx_mode)."""
        promisc = self.shown.promisc or self.shown.promiscuity > self.has_further
        return replace(self.shown, promisc=promisc, promiscuity=0)


@dataclass(frozen=True, slots=True)
class _Stacked:
    below: Place
    mac: str
    up: bool


@dataclass(slots=True)
class _Home:
    """What is known of a namespace with a guest end, or a device above one, in it."""

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
        self._above: dict[Place, set[Place]] = {}
        """The devices that are stacked on each."""
        self._silent: set[int] = set()
        self._dirty: set[int] = set()
        """VFs whose guests may want something else than they asked for."""

    # Where the VFs are

    def add(self, vfid: int, place: Place, *, mac: str, mtu: int, grants: Grants) -> None:
        """A VF's guest end is at ``place``, with ``mac`` and ``mtu`` in force. Nothing is asked
        before something is told of it, or ``listen``."""
        same = self._of.get(vfid) == place
        up = same and self.is_up(vfid)
        if not same:
            self._leave(vfid)
        self._places[place] = vfid
        self._of[vfid] = place
        self._homes.setdefault(place[0], _Home())
        shown = _Shown(mac, mtu, grants.promisc, grants.allmulti)
        guest = _Guest(shown, shown, up=up, macs=grants.macs, groups=grants.groups)
        self._guests[vfid] = guest
        self._recount(vfid, guest)

    def remove(self, vfid: int) -> None:
        """The VF's guest end is gone, or has moved; what was asked for is forgotten."""
        self._leave(vfid)
        self._guests.pop(vfid, None)
        self._dirty.discard(vfid)

    def _leave(self, vfid: int) -> None:
        """Nothing is above its place any more, and a namespace in which no guest has anything is
        forgotten."""
        place = self._of.pop(vfid, None)
        if place is None:
            return
        del self._places[place]
        left = {place[0]}
        for above in list(self._tree(place))[1:]:
            left.add(above[0])
            self._take_off(above)
        held = {nsid for nsid, _ in self._places}
        for nsid in left - held:
            if not (home := self._homes.get(nsid)) or not home.stacked:
                self._homes.pop(nsid, None)

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
            self._recount(vfid, guest)

    def has(self, nsid: int | None) -> bool:
        """Whether a guest has anything in that namespace."""
        return nsid in self._homes

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
        return guest.shown.mac if guest else ""

    def mtu(self, vfid: int) -> int:
        """The MTU of the guest's interface as it is, granted or not; 0: unknown."""
        guest = self._guests.get(vfid)
        return guest.shown.mtu if guest else 0

    def roomy(self, mtu: int) -> set[int]:
        """The VFs whose guest ends are in another namespace and take frames of that MTU."""
        return {v for v, place in self._of.items() if place[0] is not None
                and self._guests[v].shown.mtu >= mtu}  # fmt: skip

    def expect(self, vfid: int, *, mac: str | None = None, mtu: int | None = None) -> None:
        """The host itself is about to set these on the guest end: no request of the guest's."""
        guest = self._guests.get(vfid)
        if guest:
            mac, mtu = mac or guest.shown.mac, mtu or guest.shown.mtu
            guest.shown = replace(guest.shown, mac=mac, mtu=mtu)
            guest.asked = replace(guest.asked, mac=mac, mtu=mtu)

    # What they ask for

    def hush(self, vfids: Iterable[int]) -> None:
        """Listings of what these guests have follow: nothing is asked until ``listen``."""
        self._silent.update(vfids)

    def listen(self, vfids: Iterable[int]) -> None:
        """The listings are complete: what differs from what was asked for so far is asked."""
        self._silent.difference_update(vfids)
        self._dirty.update(v for v in vfids if v in self._guests)

    def asks(self) -> list[Request]:
        """What differs by now from what was asked for so far."""
        ready = self._dirty - self._silent
        self._dirty -= ready
        return [request for vfid in sorted(ready) for request in self._asks(vfid)]

    def doubted(self) -> list[int]:
        """VFs whose guest ends may be promiscuous, or no longer, without anybody's being told."""
        found = [v for v in self._dirty if self._guests[v].filtered != self._guests[v].has_further]
        for vfid in found:
            self._guests[vfid].filtered = self._guests[vfid].has_further
        return found

    def _asks(self, vfid: int) -> list[Request]:
        """A device that is down is given nothing and asks for nothing: VFs that wait for a guest
        are quiet."""
        guest = self._guests[vfid]
        asked, shown = guest.asked, guest.wanted()
        guest.asked = shown
        found: list[Request] = []
        if shown.mac != asked.mac:
            found.append(Request(vfid, RequestKind.DEFAULT_MAC, mac=shown.mac))
        if shown.mtu != asked.mtu:
            found.append(Request(vfid, RequestKind.MTU, mtu=shown.mtu))
        if shown.promisc != asked.promisc:
            found.append(Request(vfid, RequestKind.PROMISC, on=shown.promisc))
        if shown.allmulti != asked.allmulti:
            found.append(Request(vfid, RequestKind.ALLMULTI, on=shown.allmulti))
        macs = _chosen(
            guest.macs,
            chain(guest.unicast, guest.above),
            lambda mac: mac != shown.mac and (mac in guest.unicast or mac in guest.above),
        )
        groups = _chosen(
            guest.groups,
            chain(guest.multicast, guest.joined if guest.up else ()),
            lambda mac: mac in guest.multicast or (guest.up and mac in guest.joined),
        )
        found += [
            Request(vfid, kind, mac=mac)
            for kind, some in (
                (RequestKind.REMOVE_MAC, guest.macs - macs),
                (RequestKind.ADD_MAC, macs - guest.macs),
                (RequestKind.LEAVE_GROUP, guest.groups - groups),
                (RequestKind.JOIN_GROUP, groups - guest.groups),
            )
            for mac in sorted(some)
        ]
        guest.macs, guest.groups = macs, groups
        return found

    # What is told of their devices

    def shows(self, vfid: int, link: Link) -> bool:
        """Whether the VF's guest end was known to look as a notification says."""
        guest = self._guests[vfid]
        return guest.up == link.up and guest.shown == _shown(link, guest.shown)

    def link(self, nsid: int | None, link: Link) -> bool:
        """A link as it is now. Returns whether it is a VF, or above one."""
        place = (nsid, link.index)
        vfid = self._places.get(place)
        if vfid is not None:
            guest = self._guests[vfid]
            guest.up, guest.shown = link.up, _shown(link, guest.shown)
            self._dirty.add(vfid)
            return True
        if link.kind not in STACKED or link.link is None:
            return False
        below = (nsid if link.link_nsid is None else link.link_nsid, link.link)
        return self._put(place, _Stacked(below, link.mac, link.up))

    def links(self, nsid: int | None, links: Iterable[Link]) -> None:
        """All links of a namespace; one may be listed before what it is stacked on. What is known
        and isn't listed is gone."""
        left, count = list(links), -1
        home = self._homes.get(nsid)
        for index in (home.stacked.keys() if home else set()) - {link.index for link in left}:
            self.gone(nsid, index)
        while len(left) != count:
            count = len(left)
            left = [x for x in left if not self.link(nsid, x) and x.kind in STACKED]

    def gone(self, nsid: int | None, index: int) -> None:
        """A device in a guest's namespace is no longer there (the VF itself: see ``remove``)."""
        self._take_off((nsid, index))
        if home := self._homes.get(nsid):
            home.joined.pop(index, None)

    def left(self, nsid: int | None) -> None:
        """The namespace is gone, or its id is another's now."""
        home = self._homes.get(nsid)
        for index in tuple(home.stacked) if home else ():
            self._take_off((nsid, index))
        if not any(place[0] == nsid for place in self._places):
            self._homes.pop(nsid, None)

    def neighbour(self, nsid: int | None, entry: Neighbour, added: bool) -> None:
        """``bridge fdb add|del MAC dev VF self``: the interface's own address lists."""
        vfid = self._places.get((nsid, entry.index))
        if vfid is None or not entry.self_entry or not entry.mac:
            return
        guest = self._guests[vfid]
        listed = guest.multicast if is_multicast(entry.mac) else guest.unicast
        if not added:
            listed.pop(entry.mac, None)
        elif len(listed) < _MOST_ADDRESSES:
            listed[entry.mac] = None
        self._dirty.add(vfid)

    def listed(self, vfid: int, macs: Collection[str] | None) -> bool:
        """All that the interface's own address lists hold (None: nobody can say, so what was asked
        for stays). What isn't there for a device above or an IP group was set on it. Returns
        whether there is unicast of which nobody is known to have set it."""
        guest = self._guests[vfid]
        if macs is None:
            macs = guest.macs | guest.groups
        ordered = sorted(macs)
        unicast = [m for m in ordered if not is_multicast(m) and m not in guest.above]
        multicast = [m for m in ordered if is_multicast(m) and m not in guest.joined]
        guest.unicast = dict.fromkeys(unicast[:_MOST_ADDRESSES])
        guest.multicast = dict.fromkeys(multicast[:_MOST_ADDRESSES])
        self._dirty.add(vfid)
        return bool(unicast)

    def membership(self, nsid: int | None, members: Iterable[Membership], joined: bool) -> None:
        """IP multicast groups joined or left on devices of the namespace."""
        home = self._homes.get(nsid)
        if home is None:
            return
        for member in members:
            known = self._joined_of(home, nsid, member.index)
            if known is None or (member.mac in known) == joined:
                continue
            if joined and len(known) >= _MOST_GROUPS:
                continue
            (known.add if joined else known.discard)(member.mac)
            vfid = self._vf((nsid, member.index))
            if vfid is not None:
                guest = self._guests[vfid]
                guest.multicast.pop(member.mac, None)
                _count(guest.joined, member.mac, 1 if joined else -1)
                self._dirty.add(vfid)

    def forget_groups(self, nsid: int | None, families: Iterable[int]) -> None:
        """A full listing of the namespace's groups of these address families follows."""
        listed = tuple(_GROUP_MACS[family] for family in families)
        home = self._homes.get(nsid, _Home())
        for index, groups in list(home.joined.items()):
            gone = {mac for mac in groups if mac.startswith(listed)}
            vfid = self._vf((nsid, index))
            for mac in gone if vfid is not None else ():
                _count(self._guests[vfid].joined, mac, -1)  # type: ignore[index]
            groups -= gone
            if not groups:
                del home.joined[index]

    def keep_groups(self, vfid: int, families: Iterable[int]) -> None:
        """The groups of these families that were granted before count as joined: nobody can say
        whether they still are, and a guest reports a group only once."""
        nsid, index = self._of[vfid]
        guest = self._guests[vfid]
        kept = tuple(_GROUP_MACS[family] for family in families)
        groups = {m for m in guest.groups if m.startswith(kept)}
        known = self._homes[nsid].joined.setdefault(index, set()) if groups else set()
        for mac in groups - known:
            known.add(mac)
            _count(guest.joined, mac, 1)

    def _joined_of(self, home: _Home, nsid: int | None, index: int) -> set[str] | None:
        """The groups of a device; None: nothing more can be remembered in its namespace. Before
        that, what no VF has to do with is forgotten."""
        if index not in home.joined and len(home.joined) >= _MOST_DEVICES:
            for other in [i for i in home.joined if self._vf((nsid, i)) is None]:
                del home.joined[other]
            if len(home.joined) >= _MOST_DEVICES:
                return None
        return home.joined.setdefault(index, set())

    # The devices above

    def _vf(self, place: Place) -> int | None:
        """The VF that a device is, or is stacked on."""
        seen = set()
        while place not in self._places:
            home = self._homes.get(place[0])
            upper = home.stacked.get(place[1]) if home else None
            if upper is None or place in seen:
                return None
            seen.add(place)
            place = upper.below
        return self._places[place]

    def _tree(self, place: Place) -> Iterator[Place]:
        """The device and all above it."""
        found, seen = [place], {place}
        for one in found:
            yield one
            new = self._above.get(one, set()) - seen
            seen |= new
            found += sorted(new, key=str)

    def _put(self, place: Place, device: _Stacked) -> bool:
        home = self._homes.get(place[0])
        before = home.stacked.get(place[1]) if home else None
        if before is not None and before.below != device.below:
            self._take_off(place)
            before = None
        vfid = self._vf(device.below)
        if vfid is None:
            self._take_off(place)
            return False
        guest = self._guests[vfid]
        home = self._homes.setdefault(place[0], _Home())
        if before is None:
            if guest.devices >= _MOST_DEVICES:
                return True
            home.stacked[place[1]] = device
            self._above.setdefault(device.below, set()).add(place)
            self._add_up(guest, place, 1)
        else:
            if before.up and before.mac:
                _count(guest.above, before.mac, -1)
            home.stacked[place[1]] = device
            if device.up and device.mac:
                _count(guest.above, device.mac, 1)
        self._dirty.add(vfid)
        return True

    def _take_off(self, place: Place) -> None:
        """The device is no longer above a VF, nor is what is above itself."""
        home = self._homes.get(place[0])
        if home is None or place[1] not in home.stacked:
            return
        vfid = self._vf(place)
        for one in reversed(list(self._tree(place))):
            there = self._homes[one[0]]
            if vfid is not None:
                self._add_up(self._guests[vfid], one, -1)
                self._dirty.add(vfid)
            device = there.stacked.pop(one[1])
            beside = self._above[device.below]
            beside.discard(one)
            if not beside:
                del self._above[device.below]
            if not there.stacked and not any(p[0] == one[0] for p in self._places):
                del self._homes[one[0]]

    def _add_up(self, guest: _Guest, place: Place, sign: int) -> None:
        """What a device above the VF wants, with all others' wants; or (-1) no longer."""
        home = self._homes[place[0]]
        if device := home.stacked.get(place[1]):
            guest.devices += sign
            if device.up and device.mac:
                _count(guest.above, device.mac, sign)
        for mac in home.joined.get(place[1], ()):
            _count(guest.joined, mac, sign)

    def _recount(self, vfid: int, guest: _Guest) -> None:
        guest.above, guest.joined, guest.devices = {}, {}, 0
        for place in self._tree(self._of[vfid]):
            self._add_up(guest, place, 1)


def _shown(link: Link, before: _Shown) -> _Shown:
    return _Shown(
        link.mac or before.mac,
        link.mtu or before.mtu,
        bool(link.flags & IFF_PROMISC),
        bool(link.allmulti or link.flags & IFF_ALLMULTI),
        link.promiscuity,
    )


def _count(counted: dict[str, int], mac: str, more: int) -> None:
    now = counted.get(mac, 0) + more
    if now > 0:
        counted[mac] = now
    else:
        counted.pop(mac, None)


def _chosen(
    asked: frozenset[str], wanted: Iterable[str], is_wanted: Callable[[str], bool]
) -> frozenset[str]:
    """Of what a guest wants, what it asks for: what it did before, then what came first."""
    kept = {mac for mac in asked if is_wanted(mac)}
    if len(kept) < _MOST_ASKED:
        for mac in wanted:
            if mac not in kept and is_wanted(mac):
                kept.add(mac)
                if len(kept) == _MOST_ASKED:
                    break
    return frozenset(kept)
