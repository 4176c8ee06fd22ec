"""What the kernel told and nobody looked at yet: of each device the last, however often it changed.

A guest that is root in its namespace can change something 160 000 times a second. What it did comes
in here at the price of a look into a dictionary, and goes out as one piece of news for each device,
namespace by namespace in turn, so that no guest waits for what another does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from vfd.nic.netlink import Notification
from vfd.nic.soft import nsids, rtnl
from vfd.nic.soft.rtnl import Membership, Neighbour

_DEVICES, _FACTS = 4096, 1024
"""Of how many devices of a namespace news may wait, and how many groups and addresses of each.
Beyond that the namespace is to be listed."""
_TURN = 16
"""Devices of one namespace that are looked at before it is the next one's turn."""
_INDEX = struct.Struct("=4xi")
"""In struct ifinfomsg, ndmsg, ifaddrmsg and tcmsg alike: the device's index."""
_TC = struct.Struct("=8xII")

_TRAFFIC_CONTROL = frozenset(
    {
        rtnl.RTM_NEWQDISC,
        rtnl.RTM_DELQDISC,
        rtnl.RTM_NEWTCLASS,
        rtnl.RTM_DELTCLASS,
        rtnl.RTM_NEWTFILTER,
        rtnl.RTM_DELTFILTER,
    }
)

Traffic = tuple[int, int, int, int]
"""(index of the device, handle, parent, type of the message)."""


@dataclass(slots=True)
class News:
    """What was told of one device."""

    link: bytes = b""
    """The last RTM_NEWLINK or RTM_DELLINK; empty: only its groups and addresses changed."""
    gone: bool = False
    """It is no longer there."""
    anew: bool = False
    """It was gone in between: what is known of one of this index is of another."""
    members: dict[bytes, tuple[Membership, bool]] = field(default_factory=dict)
    """Groups by address, and whether they were joined."""
    addresses: dict[str, tuple[Neighbour, bool]] = field(default_factory=dict)
    """Of the device's own lists, and whether they were added."""


class Heard:
    """``own``: the port id under which the NIC itself changes traffic control."""

    def __init__(self, own: int, *, guests: bool) -> None:
        self._own = own
        self._guests = guests
        """Whether groups and addresses matter. A tap's do not."""
        self._spaces: dict[int | None, dict[int, News]] = {}
        self._traffic: dict[Traffic, None] = {}
        self._ended: dict[int, None] = {}
        self._overfull: set[int | None] = set()

    def __bool__(self) -> bool:
        return bool(self._spaces)

    def take(self, told: list[Notification]) -> None:
        for nsid, kind, sender, body in told:
            if kind in (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK) and body[0] == rtnl.AF_BRIDGE:
                continue  # of a bridge's port, and not of the device
            if kind == rtnl.RTM_NEWLINK:
                if news := self._of(nsid, _INDEX.unpack_from(body)[0]):
                    news.link, news.gone = body, False
            elif kind == rtnl.RTM_DELLINK:
                if news := self._of(nsid, _INDEX.unpack_from(body)[0]):
                    news.link, news.gone, news.anew = body, True, True
                    news.members, news.addresses = {}, {}
            elif kind in _TRAFFIC_CONTROL:
                if nsid is None and sender != self._own:
                    index, (handle, parent) = _INDEX.unpack_from(body)[0], _TC.unpack_from(body)
                    self._traffic[index, handle, parent, kind] = None
            elif kind == nsids.RTM_DELNSID:
                self._end(nsid, nsids.parse_nsid(body))
            elif self._guests:
                self._fact(nsid, kind, body)

    def traffic(self) -> list[Traffic]:
        """Somebody else's changes of traffic control, each once."""
        told, self._traffic = self._traffic, {}
        return list(told)

    def ended(self) -> list[int]:
        """Ids of namespaces that are gone; what is told of such an id is of another one."""
        told, self._ended = self._ended, {}
        return list(told)

    def overfull(self) -> set[int | None]:
        """Namespaces of which more was told than is kept."""
        told, self._overfull = self._overfull, set()
        return told

    def turns(self) -> Iterator[tuple[int | None, News]]:
        """(namespace, news), a few of each namespace in turn, until it is stopped or there
        is none. What comes out is no longer kept."""
        while self._spaces:
            for nsid in tuple(self._spaces):
                # to the end first: whoever is cut off in the middle is not the first next time
                space = self._spaces[nsid] = self._spaces.pop(nsid)
                for index in list(islice(space, _TURN)):
                    news = space.pop(index)
                    if not space:
                        del self._spaces[nsid]
                    yield nsid, news

    def _of(self, nsid: int | None, index: int) -> News | None:
        space = self._spaces.get(nsid)
        if space is None:
            space = self._spaces[nsid] = {}
        news = space.get(index)
        if news is None:
            if len(space) >= _DEVICES:
                self._overfull.add(nsid)
                return None
            news = space[index] = News()
        return news

    def _fact(self, nsid: int | None, kind: int, body: bytes) -> None:
        if kind in (rtnl.RTM_NEWMULTICAST, rtnl.RTM_DELMULTICAST):
            member = rtnl.parse_membership(body)
            if member and (news := self._of(nsid, member.index)):
                if len(news.members) < _FACTS or member.group in news.members:
                    news.members[member.group] = member, kind == rtnl.RTM_NEWMULTICAST
                else:
                    self._overfull.add(nsid)
        elif kind in (rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH) and body[0] == rtnl.AF_BRIDGE:
            entry = rtnl.parse_neighbour(body)
            if news := self._of(nsid, entry.index):
                if len(news.addresses) < _FACTS or entry.mac in news.addresses:
                    news.addresses[entry.mac] = entry, kind == rtnl.RTM_NEWNEIGH
                else:
                    self._overfull.add(nsid)

    def _end(self, nsid: int | None, ended: int | None) -> None:
        if nsid is None and ended is not None:
            self._spaces.pop(ended, None)
            self._overfull.discard(ended)
            self._ended[ended] = None
