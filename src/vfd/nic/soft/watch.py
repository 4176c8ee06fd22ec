"""What the kernel tells about a soft NIC, as events: links, guests, drift. Nothing polls.

A listener in the NIC's namespace hears it and every guest's (a veth's peer gives them an id there);
the program's ring buffer tells what only frames show. Both hang on one epoll descriptor.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from vfd.nic.netlink import Listener, Netlink, Notification, TornError
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.nic.soft import rtnl
from vfd.nic.soft.guests import Guests, Place, TapGuests
from vfd.nic.soft.reports import reports
from vfd.nic.soft.rtnl import Link
from vfd.nic.soft.switch import Switch, Vf
from vfd.policy.addresses import mac_text
from vfd.policy.requests import Grants, Request

_GROUPS = (rtnl.RTNLGRP_LINK, rtnl.RTNLGRP_NEIGH, rtnl.RTNLGRP_TC)
_OPTIONAL_GROUPS = (rtnl.RTNLGRP_NSID, rtnl.RTNLGRP_IPV4_MCADDR, rtnl.RTNLGRP_IPV6_MCADDR)
_LINKS = (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK)
_MEMBERSHIPS = (rtnl.RTM_NEWMULTICAST, rtnl.RTM_DELMULTICAST)
_TRAFFIC_CONTROL = (
    rtnl.RTM_NEWQDISC,
    rtnl.RTM_DELQDISC,
    rtnl.RTM_NEWTCLASS,
    rtnl.RTM_DELTCLASS,
    rtnl.RTM_NEWTFILTER,
    rtnl.RTM_DELTFILTER,
)

_MOST, _SPAN = 4096, 0.2
"""Notifications that are taken at once, and seconds for which they are looked at."""
_TRIES = 3
"""How often a namespace is listed that its guest changes meanwhile."""
SOURCE, REPORT = 1, 2
"""Kinds of the program's events: EVENT_SOURCE and EVENT_REPORT in veb.h."""


class Owner(Protocol):
    """What the watch asks of the NIC: to act at once where waiting would be wrong."""

    def wire_changed(self, link: Link | None) -> list[Event]:
        """The uplink changed; None: it is gone."""

    def wire_appeared(self, name: str) -> list[Event]:
        """A netdev of the uplink's name came up in the daemon's namespace."""

    def vfs_lost(self, vfids: Collection[int]) -> list[Event]:
        """VFs' netdevs are gone, as with the namespace of their guest."""

    def guest_moved(self, vfid: int, before: Place | None, after: Place | None) -> list[Event]:
        """A VF's guest end is in another place than before."""

    def forget_guests(self) -> None:
        """What guests asked for may not have been told: what was granted counts."""

    def guest_changed(self) -> None:
        """A guest end's MTU may be another, or whether it has XDP: what may be done on the way to
        it, with it."""

    def drifted(self, vfid: int | None, what: str) -> list[Event]:
        """Somebody else changed what the NIC is made of."""

    def uplink(self) -> tuple[str | None, int]:
        """The uplink's name as configured, and its index (0: it isn't there)."""

    def grants(self) -> Mapping[int, Grants]: ...

    def may_be_its_own(self, vfid: int) -> bool:
        """Whether a MAC that the VF doesn't own can be the one that its guest's machine has."""

    def reach(self, nsid: int | None) -> contextlib.AbstractContextManager[Netlink | None]:
        """A request socket in a guest's namespace; None: it can't be reached."""


class Watch:
    """The ears of one NIC. They hear the kernel from the beginning, so that what happens while
    the NIC is looked at isn't missed; and its program from ``hear_program`` on."""

    def __init__(self, switch: Switch, guests: Guests, owner: Owner) -> None:
        self._switch = switch
        self._guests = guests
        self._taps = TapGuests()
        self._owner = owner
        self._drain: Callable[[], list[bytes]] = list
        with switch.inside():
            self._listener = Listener(_GROUPS, _OPTIONAL_GROUPS)
        self._root = switch.root_nsid()
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._waiting: list[Event] = []
        self._missed = ""
        """Why everything has to be looked at again; '' if it hasn't."""
        self._heard: deque[Notification] = deque()
        """What came and wasn't looked at yet."""
        self._torn: set[int | None] = set()
        """Namespaces that changed while they were listed."""
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        if switch.names is not None:
            self._epoll.register(switch.names, select.EPOLLIN)

    def hear_program(self, ring: int, drain: Callable[[], list[bytes]]) -> None:
        self._drain = drain
        self._epoll.register(ring, select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, events: Sequence[Event]) -> None:
        """Events to be told with the next ones, found outside ``events``."""
        if events:
            self._waiting += events
            self._ring_bell()

    def _ring_bell(self) -> None:
        """There is something to do at once, though nothing new was heard."""
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._bell)
        self._listener.close()

    def forget(self, vfid: int) -> None:
        """The VF has another guest now: what the former asked for is forgotten."""
        self._taps.forget(vfid)

    def events(self) -> list[Event]:
        """What was heard, whatever fails on the way: then everything is looked at again, now and
        until that succeeds, with the next events.

        Takes no longer than ``_SPAN`` and a look or two, whatever guests do: what is left then is
        for the next call, which the descriptor asks for."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        events, self._waiting = self._waiting, []
        self._switch.keep_name()
        torn, self._torn = self._torn, set()
        for vfid in tuple(self._switch.ports) if torn else ():
            place = self._guests.place(vfid)
            if place is not None and place[0] in torn:
                self._try(events, lambda: self.sync(vfid))  # noqa: B023
        if not self._heard:
            heard = self._listener.receive(_MOST)
            if heard is None:
                self._missed = "the kernel dropped notifications"
            else:
                self._heard.extend(heard)
        end = time.monotonic() + _SPAN
        while self._heard and time.monotonic() < end:
            notification = self._heard.popleft()
            self._try(events, lambda: self._told_by_kernel(*notification))  # noqa: B023
        if self._heard:
            self._ring_bell()
        for raw in self._drain():
            self._try(events, lambda: _asked(self._told(raw)))  # noqa: B023
        if self._missed:
            why, self._missed = self._missed, ""
            events.append(Event(EventKind.OVERRUN, text=why))
            self._try(events, self.look_again)
        return _in_time(events)

    def _try(self, events: list[Event], find: Callable[[], Iterable[Event]]) -> None:
        try:
            events += find()
        except (OSError, NicError) as e:
            # what a guest was about to be asked for may be lost: it is asked for again
            self._owner.forget_guests()
            self._missed = f"looking after what happened failed: {e}"

    def look_again(self) -> Iterator[Event]:
        """Compares everything with what is known, as after lost notifications."""
        known = self._switch.ports
        links = {link.index: link for link in self._switch.look().values()}
        # first of all, for whatever enforces something makes them, and then they aren't missed
        if lost := known.keys() - self._switch.ports.keys():
            yield from self._owner.vfs_lost(lost)
        yield from self._owner.drifted(None, "everything is looked at again")
        name, _ = self._owner.uplink()
        yield from self._owner.wire_changed(
            rtnl.link(self._switch.netlink, name=name) if name else None
        )
        for vfid, port in known.items():
            found = self._switch.ports.get(vfid)
            if found is None or vfid in lost:
                continue
            if found.up != port.up:
                yield from self._owner.drifted(vfid, "its link was changed")
            if self._switch.tap:
                yield from self._held(vfid, found, links[found.host])
            else:
                yield from self._placed(vfid, found.guest)
        yield from self.sync_all()

    def sync(self, vfid: int, *, opened: bool = False) -> list[Event]:
        """What the VF's guest shows that nobody told, as requests. ``opened``: the VF has a
        configuration now; addresses set on the interface under another one are not asked for."""
        place = self._guests.place(vfid)
        if place is None or self._switch.tap:
            return []
        nsid, index = place
        link = rtnl.link(self._switch.netlink, index=index, nsid=nsid)
        if link is None:
            return []
        self._guests.hush([vfid])
        requests = self._guests.link(nsid, link)
        if nsid != self._root:
            requests += self._list(nsid, [] if opened else [vfid])
        if nsid not in self._torn:
            requests += self._guests.ask([vfid])
        self._owner.guest_changed()
        return _asked(requests)

    def sync_all(self, vfids: Collection[int] | None = None) -> list[Event]:
        """The same for all VFs or for these, with one look at each namespace."""
        if self._switch.tap:
            return []
        vfids = self._switch.ports if vfids is None else vfids
        places = {v: p for v in vfids if (p := self._guests.place(v))}
        self._guests.hush(places)
        requests: list[Request] = []
        homes: dict[int | None, list[int]] = {}
        for vfid, (nsid, _) in places.items():
            homes.setdefault(nsid, []).append(vfid)
        for nsid, there in homes.items():
            requests += self._list(nsid, there)
        requests += self._guests.ask(
            [v for v, place in places.items() if place[0] not in self._torn]
        )
        self._owner.guest_changed()
        return _asked(requests)

    def _list(self, nsid: int | None, vfids: Sequence[int]) -> list[Request]:
        """Everything in the namespace of these VFs' guests, unless one changes it faster than it is
        read. Then they ask for nothing until it was listed: at the next call of ``events``, for
        which the notification of what changed meanwhile is there already."""
        requests: list[Request] = []
        try:
            for link in rtnl.links(self._switch.netlink, nsid, tries=_TRIES):
                requests += self._guests.link(nsid, link)
            listed = rtnl.memberships(self._switch.netlink, nsid, tries=_TRIES)
        except TornError:
            self._torn.add(nsid)
            return requests
        except OSError:
            return requests  # the namespace goes just now; its DELLINK follows
        self._guests.forget_groups(nsid, listed)
        members = [member for family in listed.values() for member in family]
        requests += self._guests.membership(nsid, members, joined=True)
        self._list_addresses(nsid, vfids, told=[*listed])
        return requests

    def _list_addresses(self, nsid: int | None, vfids: Sequence[int], told: Sequence[int]) -> None:
        """The interfaces' own address lists. IP groups of a family of which the kernel doesn't
        tell who joined them look like any other address there, and are heard from reports."""
        if nsid == self._root:
            # a VF that waits for a guest has no addresses but those that its last one was granted
            grants = self._owner.grants()
            vfids = [v for v in vfids if self._guests.is_up(v) or v in grants]
        for vfid, macs in self._addresses(nsid, vfids).items():
            if macs and rtnl.AF_INET not in told:
                macs = {mac for mac in macs if not mac.startswith("01:00:5e:")}
            self._guests.listed(vfid, macs)

    def _addresses(
        self, nsid: int | None, vfids: Sequence[int]
    ) -> dict[int, Collection[str] | None]:
        """By VF; None: its guest's namespace can't be reached."""
        found: dict[int, Collection[str] | None] = dict.fromkeys(vfids)
        if vfids:
            with contextlib.suppress(OSError), self._owner.reach(nsid) as there:
                for vfid in vfids:
                    place = self._guests.place(vfid)
                    if there and place:
                        found[vfid] = rtnl.own_addresses(there, place[1])
        return found

    def _told_by_kernel(
        self, nsid: int | None, kind: int, sender: int, body: bytes
    ) -> Iterator[Event]:
        if kind in _LINKS:
            link = rtnl.parse_link(body)
            gone = kind == rtnl.RTM_DELLINK
            if nsid is None:
                yield from self._here(link, gone)
            if nsid is not None or self._switch.tap:
                yield from self._there(nsid, link, gone)
        elif kind in _TRAFFIC_CONTROL:
            if nsid is None and sender != self._switch.netlink.portid:
                yield from self._foreign(rtnl.parse_tc(body), kind)
        elif self._switch.tap:
            return
        elif kind in _MEMBERSHIPS:
            member = rtnl.parse_membership(body)
            if member:
                joined = kind == rtnl.RTM_NEWMULTICAST
                yield from _asked(self._guests.membership(nsid, [member], joined))
        elif kind in (rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH) and body[0] == rtnl.AF_BRIDGE:
            entry = rtnl.parse_neighbour(body)
            added = kind == rtnl.RTM_NEWNEIGH
            yield from _asked(self._guests.neighbour(nsid, entry, added))

    def _here(self, link: Link, gone: bool) -> Iterator[Event]:
        """A link in the NIC's own namespace."""
        name, uplink = self._owner.uplink()
        if uplink and link.index == uplink:
            yield from self._owner.wire_changed(rtnl.link(self._switch.netlink, index=uplink))
            return
        if name and link.name == name and not uplink and not gone:
            yield from self._owner.wire_appeared(name)
            return
        if link.index in (self._switch.near, self._switch.far):
            end = rtnl.link(self._switch.netlink, index=link.index)
            if end is None or not end.up:
                self._switch.shaper_ready = False
                yield from self._owner.drifted(None, "the shaper was changed")
            return
        vfid = next((v for v, p in self._switch.ports.items() if p.host == link.index), None)
        if vfid is None:
            return
        port = self._switch.ports[vfid]
        # a notification tells what was; only what is now counts
        now = rtnl.link(self._switch.netlink, index=link.index)
        if now is None:
            yield from self._owner.vfs_lost([vfid])
            return
        if (now.mtu, now.max_mtu) != (port.mtu, port.max_mtu):
            port.mtu, port.max_mtu = now.mtu, now.max_mtu
            self._owner.guest_changed()
        if now.up != port.up:
            port.up = now.up
            yield from self._owner.drifted(vfid, f"its link was set {_up(now.up)}")
        if self._switch.tap:
            yield from self._held(vfid, port, now)
        else:
            yield from self._placed(vfid, self._switch.guest_place(now))

    def _held(self, vfid: int, port: Vf, now: Link) -> Iterator[Event]:
        """A tap has carrier while a process holds it. One process may follow another faster than
        the kernel tells."""
        held, port.carrier = port.carrier, now.carrier
        lost, port.losses = now.losses != port.losses, now.losses
        place = (None, now.index)
        if held and (lost or not now.carrier):
            held = False
            yield from self._owner.guest_moved(vfid, place, None)
        if now.carrier and not held:
            yield from self._owner.guest_moved(vfid, None, place)

    def _there(self, nsid: int | None, link: Link, gone: bool) -> Iterator[Event]:
        """A link in a guest's namespace, or in the daemon's."""
        if nsid == self._root:
            yield from self._freed()
            name, uplink = self._owner.uplink()
            if name and link.name == name and not uplink and not gone:
                yield from self._owner.wire_appeared(name)
                return
        if self._switch.tap:
            return
        vfid = self._guests.at((nsid, link.index))
        if vfid is None and link.kind == "veth" and link.link is not None:
            # a guest end in a place that isn't known yet says whose peer it is
            vfid = next((v for v, p in self._switch.ports.items() if p.host == link.link), None)
            if vfid is not None and not self._is_peer(vfid, nsid, link):
                vfid = None
        if vfid is None:
            requests = (
                self._guests.gone(nsid, link.index) if gone else self._guests.link(nsid, link)
            )
            yield from _asked(requests)
        elif gone or self._guests.place(vfid) != (nsid, link.index):
            host = rtnl.link(self._switch.netlink, index=self._switch.ports[vfid].host)
            if host is not None:  # else its own DELLINK follows
                yield from self._placed(vfid, self._switch.guest_place(host))
        else:
            # What is now counts, not what was: a notification from before a forced MAC would be
            # taken for the guest's wish, and a guest that changes things in a loop would be
            # answered once for each turn.
            now = rtnl.link(self._switch.netlink, index=link.index, nsid=nsid)
            if now is not None:
                yield from _asked(self._guests.link(nsid, now))
                self._owner.guest_changed()

    def _freed(self) -> Iterator[Event]:
        """A name that a VF needs and something else had may be free again."""
        for vfid in list(self._switch.unmade):
            name = self._switch.guest_name(vfid)
            if rtnl.link(self._switch.root_netlink, name=name) is None:
                del self._switch.unmade[vfid]
                yield from self._owner.drifted(vfid, f"the name {name} is free again")

    def _is_peer(self, vfid: int, nsid: int | None, link: Link) -> bool:
        host = rtnl.link(self._switch.netlink, index=self._switch.ports[vfid].host)
        return host is not None and self._switch.guest_place(host) == (nsid, link.index)

    def _placed(self, vfid: int, place: Place | None) -> Iterator[Event]:
        before = self._guests.place(vfid)
        if place is None or place[1] == 0 or place == before:
            return
        self._switch.ports[vfid].guest = place
        self._taps.forget(vfid)
        yield from self._owner.guest_moved(vfid, before, place)
        yield from self.sync(vfid)

    def _foreign(self, found: rtnl.Tc, kind: int) -> Iterator[Event]:
        """Somebody else's traffic control on the NIC's netdevs."""
        if found.index in (rtnl.BLOCK, -1):
            if found.parent in (self._switch.block, self._switch.shaper_block):
                yield from self._owner.drifted(None, "the program was detached or replaced")
            return
        if found.index in (self._switch.near, self._switch.far):
            if kind == rtnl.RTM_DELQDISC and found.handle == rtnl.CLSACT_HANDLE:
                self._switch.shaper_ready = False
            yield from self._owner.drifted(None, "the shaper was changed")
            return
        for vfid, port in self._switch.ports.items():
            if port.host == found.index:
                if kind == rtnl.RTM_DELQDISC and found.handle == rtnl.CLSACT_HANDLE:
                    port.hooked = False
                yield from self._owner.drifted(vfid, "its queueing or its hook was changed")
        if found.index == self._owner.uplink()[1] and found.handle == rtnl.CLSACT_HANDLE:
            yield from self._owner.drifted(None, "the uplink's hook was changed")

    def _told(self, raw: bytes) -> list[Request]:
        """One record of the ring buffer: struct veb_event."""
        port = int.from_bytes(raw[0:4], "little")
        kind = int.from_bytes(raw[4:6], "little")
        size = int.from_bytes(raw[6:8], "little")
        frame = raw[8 : 8 + size]
        vfid = port - 1
        if kind == SOURCE and len(frame) >= 12:
            own = self._owner.may_be_its_own(vfid)
            return self._taps.source(vfid, mac_text(frame[6:12]), own=own)
        if kind == REPORT:
            place = self._guests.place(vfid)
            if place is None:
                return []
            requests: list[Request] = []
            for joined, member in reports(frame, place[1]):
                requests += self._guests.membership(place[0], [member], joined)
            return requests
        return []


def _in_time(events: list[Event]) -> list[Event]:
    """Without the requests of guests that are gone by now: granted, they would be the next's."""
    gone: set[int | None] = set()
    kept: list[Event] = []
    for event in reversed(events):
        if event.kind is EventKind.GUEST_GONE:
            gone.add(event.vfid)
        if event.request is None or event.vfid not in gone:
            kept.append(event)
    return kept[::-1]


def _asked(requests: list[Request]) -> list[Event]:
    return [Event(EventKind.REQUEST, r.vfid, request=r) for r in requests]


def _up(up: bool) -> str:
    return "up" if up else "down"
