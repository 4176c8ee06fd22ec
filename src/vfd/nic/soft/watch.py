"""What the kernel tells about a soft NIC, as events: links, guests, drift. Nothing polls.

A listener in the NIC's namespace hears it and every guest's (a veth's peer gives them an id there);
the program's ring buffer tells what only frames show. Both hang on one epoll descriptor.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from vfd.nic.netlink import Listener, Netlink, TornError
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.nic.soft import rtnl
from vfd.nic.soft.containers import Containers
from vfd.nic.soft.guests import STACKED, Guests, Place
from vfd.nic.soft.heard import Heard, News, Traffic
from vfd.nic.soft.reports import reports
from vfd.nic.soft.rtnl import Link
from vfd.nic.soft.switch import Switch, Vf
from vfd.nic.soft.taps import Taps
from vfd.policy.addresses import mac_text
from vfd.policy.requests import Grants, Request

_GROUPS = (rtnl.RTNLGRP_LINK, rtnl.RTNLGRP_NEIGH, rtnl.RTNLGRP_TC)
_OPTIONAL_GROUPS = (rtnl.RTNLGRP_NSID, rtnl.RTNLGRP_IPV4_MCADDR, rtnl.RTNLGRP_IPV6_MCADDR)
_MOST, _SPAN = 8192, 0.02
"""Notifications that are taken at once, and seconds for which they are looked at."""
_TRIES = 3
"""How often a namespace is listed that its guest changes meanwhile."""
SOURCE, REPORT = 1, 2
"""Kinds of the program's events: EVENT_SOURCE and EVENT_REPORT in veb.h."""
_ENDS = frozenset({EventKind.GUEST_GONE, EventKind.VF_RESET})
"""What a guest asked for before one of these is asked for no longer."""


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

    def guest_stays(self, vfid: int) -> None:
        """A tap whose carrier came back is held by the guest that it had before."""

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

    def related(self, nsid: int | None) -> set[int]:
        """Ids of the namespaces that the one of a guest has an id for, and that are no NIC's."""

    def reach(self, nsid: int | None) -> contextlib.AbstractContextManager[Netlink | None]:
        """A request socket in a guest's namespace; None: it can't be reached."""


class Watch:
    """The ears of one NIC. They hear the kernel from the beginning, so that what happens while
    the NIC is looked at isn't missed; and its program from ``hear_program`` on."""

    def __init__(self, switch: Switch, guests: Guests, owner: Owner) -> None:
        self._switch = switch
        self._guests = guests
        self._taps = Taps(switch, owner)
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
        self._failed = False
        """It is because looking failed: what guests were asked for may not have been told."""
        self._heard = Heard(switch.netlink.portid, guests=not switch.tap)
        self._containers = Containers(switch, guests, owner)
        self._changed = False
        """A guest end may be another than the program was told."""
        self._torn: set[int | None] = set()
        """Namespaces that changed while they were listed."""
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        if (closed := self._taps.fileno()) is not None:
            self._epoll.register(closed, select.EPOLLIN)
        if switch.names is not None:
            self._epoll.register(switch.names, select.EPOLLIN)

    def hear_program(self, ring: int, drain: Callable[[], list[bytes]]) -> None:
        """``drain`` takes what is in the ring buffer of that descriptor."""
        self._drain = drain
        self._epoll.register(ring, select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, events: Sequence[Event]) -> None:
        """Events to be told with the next ones, found outside ``events``."""
        if events:
            self._waiting += events
            self._ring_bell()

    def is_gone(self, vfid: int) -> bool:
        """Whether the guest is gone that the VF had when ``events`` told of it last."""
        return any(event.kind in _ENDS and event.vfid == vfid for event in self._waiting)

    def look_soon(self) -> None:
        """Guests may ask for something that nobody told of."""
        self._ring_bell()

    def _ring_bell(self) -> None:
        """There is something to do at once, though nothing new was heard."""
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._bell)
        self._listener.close()
        self._taps.close()

    def seek_holders(self, vfids: Iterable[int]) -> None:
        """Who holds taps without carrier is looked for, as when a daemon starts."""
        self._taps.seek(vfids)

    def forget(self, vfid: int) -> None:
        """The VF has another guest now: what the former asked for is forgotten."""
        self._taps.guests.forget(vfid)

    def events(self) -> list[Event]:
        """What was heard, whatever fails on the way: then everything is looked at again, now and
        until that succeeds, with the next events.

        Takes no longer than ``_SPAN`` and a look or two, whatever guests do: what is left then is
        for the next call, which the descriptor asks for. Guests' requests come last, once for all
        that was heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        events, self._waiting = self._waiting, []
        self._switch.keep_name()
        self._listen()
        torn, self._torn = self._torn, set()
        for vfid in tuple(self._switch.ports) if torn else ():
            place = self._guests.place(vfid)
            if place is not None and place[0] in torn:
                self._try(events, lambda: self._sync(vfid))  # noqa: B023
        for ended in self._heard.ended():
            self._guests.left(ended)
        for change in self._heard.traffic():
            self._try(events, lambda: self._foreign(change))  # noqa: B023
        end = time.monotonic() + _SPAN
        for nsid, news in self._heard.turns():
            self._try(events, lambda: self._told(nsid, news))  # noqa: B023
            if time.monotonic() > end:
                break
        self._try(events, self._containers.seek)
        self._try(events, self._taps.let_go)
        if self._heard or self._containers.are_doubted:
            self._ring_bell()
        if self._missed:
            # what guests ask for doesn't wait until everything can be looked at
            events += _asked(self._guests.asks())
            if self._failed:
                self._owner.forget_guests()
            why, self._missed, self._failed = self._missed, "", False
            events.append(Event(EventKind.OVERRUN, text=why))
            self._try(events, self.look_again)
        # after what the kernel tells: of guests whose end was heard, all that they sent is there
        gone = {event.vfid for event in events if event.kind in _ENDS}
        for raw in self._drain():
            self._try(events, lambda: self._sent(raw, gone))  # noqa: B023
        for vfid in self._guests.doubted():
            self._try(events, lambda: self._look_at(vfid))  # noqa: B023
        if self._changed:
            self._changed = False
            self._try(events, self._owner.guest_changed)
        return _in_time(events + _asked(self._guests.asks()))

    def _listen(self) -> None:
        told, lost = self._listener.receive(_MOST)
        self._heard.take(told)
        if lost:
            self._missed = "the kernel dropped notifications"
        if len(told) >= _MOST:
            self._ring_bell()
        for nsid in self._heard.overfull():
            if nsid is None or not self._guests.has(nsid):
                self._missed = "more was told than is kept"
            else:
                self._torn.add(nsid)

    def _try(self, events: list[Event], find: Callable[[], Iterable[Event] | None]) -> None:
        try:
            events += find() or ()
        except (OSError, NicError) as e:
            # what a guest was about to be asked for may be lost: it is asked for again
            self._failed = True
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
                yield from self._taps.held(vfid, links[found.host])
            else:
                yield from self._placed(vfid, found.guest)
        self._sync_all()

    def sync(self, vfid: int, *, opened: bool = False) -> None:
        """What the VF's guest shows that nobody told is asked for, with the next ``events``.
        ``opened``: the VF has a configuration now; addresses set on the interface under another one
        are not asked for."""
        self._sync(vfid, opened=opened)
        self._ring_bell()

    def sync_all(self) -> None:
        """The same for all VFs, with one look at each namespace."""
        self._sync_all()
        self._ring_bell()

    def _sync(self, vfid: int, *, opened: bool = False) -> None:
        place = self._guests.place(vfid)
        if place is None or self._switch.tap:
            return
        nsid, index = place
        link = rtnl.link(self._switch.netlink, index=index, nsid=nsid)
        if link is None:
            return
        self._guests.hush([vfid])
        self._guests.link(nsid, link)
        if nsid != self._root:
            self._list(nsid, [] if opened else [vfid])
        if nsid not in self._torn:
            self._guests.listen([vfid])
        self._changed = True

    def _sync_all(self) -> None:
        if self._switch.tap:
            return
        places = {v: p for v in self._switch.ports if (p := self._guests.place(v))}
        self._guests.hush(places)
        homes: dict[int | None, list[int]] = {}
        for vfid, (nsid, _) in places.items():
            homes.setdefault(nsid, []).append(vfid)
        for nsid, there in homes.items():
            self._list(nsid, there)
        self._guests.listen([v for v, place in places.items() if place[0] not in self._torn])
        self._owner.guest_changed()

    def _list(self, nsid: int | None, vfids: Sequence[int]) -> None:
        """Everything in the namespace of these VFs' guests, unless one changes it faster than it is
        read. Then they ask for nothing until it was listed: at the next call of ``events``, for
        which the notification of what changed meanwhile is there already."""
        try:
            self._guests.links(nsid, rtnl.links(self._switch.netlink, nsid, tries=_TRIES))
            listed = rtnl.memberships(self._switch.netlink, nsid, tries=_TRIES)
        except TornError:
            self._torn.add(nsid)
            return
        except OSError:
            return  # the namespace goes just now; its DELLINK follows
        self._guests.forget_groups(nsid, listed)
        members = [member for family in listed.values() for member in family]
        self._guests.membership(nsid, members, joined=True)
        self._list_addresses(nsid, vfids, told=[*listed])

    def _list_addresses(self, nsid: int | None, vfids: Sequence[int], told: Sequence[int]) -> None:
        """The interfaces' own address lists. IP groups of a family of which the kernel doesn't
        tell who joined them look like any other address there, and are heard from reports."""
        if nsid == self._root:
            # a VF that waits for a guest has no addresses but those that its last one was granted
            grants = self._owner.grants()
            vfids = [v for v in vfids if self._guests.is_up(v) or v in grants]
        addresses = self._addresses(nsid, vfids)
        for vfid, macs in addresses.items():
            if macs and rtnl.AF_INET not in told:
                addresses[vfid] = {mac for mac in macs if not mac.startswith("01:00:5e:")}
        unknown = [v for v, macs in addresses.items() if self._guests.listed(v, macs) and macs]
        if unknown and nsid != self._root:
            self._containers.list(nsid)
            for vfid in unknown:
                self._guests.listed(vfid, addresses[vfid])

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

    def _told(self, nsid: int | None, news: News) -> Iterator[Event]:
        link = rtnl.parse_link(news.link) if news.link else None
        if nsid is None and link is not None:
            yield from self._here(link, news.gone)
        if (nsid is not None or self._switch.tap) and link is not None:
            yield from self._there(nsid, link, news)
        for member, joined in news.members.values():
            self._guests.membership(nsid, [member], joined)
        for entry, added in news.addresses.values():
            self._guests.neighbour(nsid, entry, added)

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
        if not gone and self._is_known(vfid, port, link):
            return  # a guest sets its own end up and down as often as it likes
        # a notification tells what was; only what is now counts
        now = rtnl.link(self._switch.netlink, index=link.index)
        if now is None:
            yield from self._owner.vfs_lost([vfid])
            return
        if (now.mtu, now.max_mtu) != (port.mtu, port.max_mtu):
            port.mtu, port.max_mtu = now.mtu, now.max_mtu
            self._changed = True
        if now.up != port.up:
            port.up = now.up
            yield from self._owner.drifted(vfid, f"its link was set {_up(now.up)}")
        if self._switch.tap:
            yield from self._taps.held(vfid, now)
        else:
            yield from self._placed(vfid, self._switch.guest_place(now))

    def _is_known(self, vfid: int, port: Vf, link: Link) -> bool:
        """Whether a host end is as it was looked at last. Of a tap's carrier the kernel tells up to
        a second later."""
        if self._switch.tap or self._switch.guest_place(link) != self._guests.place(vfid):
            return False
        return (link.up, link.mtu, link.max_mtu) == (port.up, port.mtu, port.max_mtu)

    def _there(self, nsid: int | None, link: Link, news: News) -> Iterator[Event]:
        """A link in a guest's namespace, or in the daemon's."""
        if nsid == self._root:
            yield from self._freed()
            name, uplink = self._owner.uplink()
            if name and link.name == name and not uplink and not news.gone:
                yield from self._owner.wire_appeared(name)
                return
        if self._switch.tap:
            return
        vfid = self._guests.at((nsid, link.index))
        if vfid is None and link.kind == "veth" and link.link is not None and not news.gone:
            # a guest end in a place that isn't known yet says whose peer it is
            vfid = next((v for v, p in self._switch.ports.items() if p.host == link.link), None)
            if vfid is not None and not self._is_peer(vfid, nsid, link):
                vfid = None
        if vfid is None:
            self._device(nsid, link, news)
        elif news.anew or self._guests.place(vfid) != (nsid, link.index):
            host = rtnl.link(self._switch.netlink, index=self._switch.ports[vfid].host)
            if host is not None:  # else its own DELLINK follows
                yield from self._placed(vfid, self._switch.guest_place(host), left=news.anew)
        elif not self._guests.shows(vfid, link):
            # What is now counts, not what was: a notification from before a forced MAC would be
            # taken for the guest's wish.
            now = rtnl.link(self._switch.netlink, index=link.index, nsid=nsid)
            if now is not None:
                self._guests.link(nsid, now)
                self._changed = True
        elif nsid != self._root:
            # told without a change: a device was stacked on it, perhaps in another namespace.
            # Whoever does that is done with it once the kernel answers
            self._look_at(vfid)
            self._containers.doubt(nsid)

    def _look_at(self, vfid: int) -> None:
        """Of some changes of a guest end the kernel doesn't tell."""
        if (place := self._guests.place(vfid)) and not self._switch.tap:
            now = rtnl.link(self._switch.netlink, index=place[1], nsid=place[0])
            if now is not None:
                self._guests.link(place[0], now)

    def _device(self, nsid: int | None, link: Link, news: News) -> None:
        """A link in a namespace of guests that is no VF."""
        if news.anew:
            if link.new_nsid is not None and link.kind in STACKED and self._guests.has(nsid):
                self._containers.doubt(nsid)
            self._guests.gone(nsid, link.index)
        if news.gone:
            return
        if link.kind in STACKED and link.link_nsid is not None:
            # what a namespace calls another one is its own affair
            now = rtnl.link(self._switch.netlink, index=link.index, nsid=nsid)
            if now is not None:
                self._guests.link(nsid, now)
            return
        self._guests.link(nsid, link)

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

    def _placed(self, vfid: int, place: Place | None, *, left: bool = False) -> Iterator[Event]:
        """``left``: its guest end was gone from where it was, though it may be there again."""
        before = self._guests.place(vfid)
        if place is None or place[1] == 0 or (place == before and not left):
            return
        self._switch.ports[vfid].guest = place
        self._taps.guests.forget(vfid)
        yield from self._owner.guest_moved(vfid, before, place)
        self._sync(vfid)

    def _foreign(self, change: Traffic) -> Iterator[Event]:
        """Somebody else's traffic control on the NIC's netdevs."""
        index, handle, parent, kind = change
        if index in (rtnl.BLOCK, -1):
            if parent in (self._switch.block, self._switch.shaper_block):
                yield from self._owner.drifted(None, "the program was detached or replaced")
            return
        hook_gone = kind == rtnl.RTM_DELQDISC and handle == rtnl.CLSACT_HANDLE
        if index in (self._switch.near, self._switch.far):
            if hook_gone:
                self._switch.shaper_ready = False
            yield from self._owner.drifted(None, "the shaper was changed")
            return
        for vfid, port in self._switch.ports.items():
            if port.host == index:
                if hook_gone:
                    port.hooked = False
                yield from self._owner.drifted(vfid, "its queueing or its hook was changed")
        if index == self._owner.uplink()[1] and handle == rtnl.CLSACT_HANDLE:
            yield from self._owner.drifted(None, "the uplink's hook was changed")

    def _sent(self, raw: bytes, gone: Collection[int | None]) -> list[Event]:
        """One record of the ring buffer: struct veb_event. One of a guest that is gone by now (or
        of the next one, which will send again) asks for nothing: granted, it would be the next
        one's. So does one of a tap without carrier: nobody holds it, or its link is down."""
        port = int.from_bytes(raw[0:4], "little")
        kind = int.from_bytes(raw[4:6], "little")
        size = int.from_bytes(raw[6:8], "little")
        frame = raw[8 : 8 + size]
        vfid = port - 1
        found = self._switch.ports.get(vfid)
        if vfid in gone or found is None or (self._switch.tap and not found.carrier):
            return []
        if kind == SOURCE and len(frame) >= 12:
            own = self._owner.may_be_its_own(vfid)
            return _asked(self._taps.guests.source(vfid, mac_text(frame[6:12]), own=own))
        if kind == REPORT and (place := self._guests.place(vfid)) is not None:
            for joined, member in reports(frame, place[1]):
                self._guests.membership(place[0], [member], joined)
        return []


def _in_time(events: list[Event]) -> list[Event]:
    """Without the requests of guests that are gone by now: granted, they would be the next's."""
    gone: set[int | None] = set()
    kept: list[Event] = []
    for event in reversed(events):
        if event.kind in _ENDS:
            gone.add(event.vfid)
        if event.request is None or event.vfid not in gone:
            kept.append(event)
    return kept[::-1]


def _asked(requests: list[Request]) -> list[Event]:
    return [Event(EventKind.REQUEST, r.vfid, request=r) for r in requests]


def _up(up: bool) -> str:
    return "up" if up else "down"
