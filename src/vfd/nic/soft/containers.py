"""The namespaces below a guest's own to which it gives devices above its VF."""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

from vfd.nic.soft import rtnl
from vfd.nic.soft.guests import Guests
from vfd.nic.soft.switch import Switch

_REST = 5
"""A look at all namespaces of the host takes milliseconds, and a guest can cause as many as it
likes: after one there is none for so many times as long."""


class Owner(Protocol):
    def related(self, nsid: int | None) -> set[int]: ...


class Containers:
    """Of the guests of one NIC."""

    def __init__(self, switch: Switch, guests: Guests, owner: Owner) -> None:
        self._switch = switch
        self._guests = guests
        self._owner = owner
        self._root = switch.root_nsid()
        self._doubted: set[int | None] = set()
        self._next = 0.0

    @property
    def are_doubted(self) -> bool:
        """Whether ``seek`` has something to do, now or once it has rested."""
        return bool(self._doubted)

    def doubt(self, nsid: int | None) -> None:
        """Devices above the VF of a guest in that namespace may have come to another one."""
        self._doubted.add(nsid)

    def seek(self) -> None:
        """Looks for them."""
        began = time.monotonic()
        if not self._doubted or began < self._next:
            return
        doubted, self._doubted = self._doubted, set()
        for nsid in doubted:
            self.list(nsid)
        now = time.monotonic()
        self._next = now + _REST * (now - began)

    def list(self, nsid: int | None) -> None:
        """What is in the namespaces that a guest's own has to do with. They are heard from now
        on."""
        known = {nsid}
        for one in (found := [nsid]):
            new = self._owner.related(one) - known - {self._root}
            known |= new
            found += sorted(new)
            for other in new:
                with contextlib.suppress(OSError):  # it goes just now
                    self._guests.links(other, rtnl.links(self._switch.netlink, other))
