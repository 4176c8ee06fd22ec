"""The namespaces that guests live in: what they are called, and reaching into them.

A NIC knows a guest's namespace by an id; a name, or a process in it, leads there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from vfd.nic.netlink import Netlink
from vfd.nic.soft import namespace, nsids, rtnl
from vfd.policy.shown import printable


class Homes:
    """The namespaces with an id in that of ``netlink``."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._names: dict[int | None, str] = {}
        self._paths: dict[int | None, Path] = {}

    def forget(self) -> None:
        """An id may be another namespace's now."""
        self._names = {}

    def names(self, wanted: Collection[int | None]) -> dict[int | None, str]:
        """The names of these namespaces, by id; '' where nobody has a name for it."""
        if set(wanted) - self._names.keys():
            self._names = dict.fromkeys(wanted, "")
            missing = set(wanted)
            with contextlib.suppress(OSError):
                for name, path in namespace.seen():
                    nsid = self._nsid(path)
                    if nsid in missing:
                        self._names[nsid] = printable(name)
                        missing.discard(nsid)
                    if not missing:
                        break
        return self._names

    def set_mac(self, nsid: int | None, index: int, mac: str) -> str:
        """Sets a netdev's MAC in a namespace. Returns why it could not; '' if it did."""
        with self.reach(nsid) as there:
            if there is None:
                return "nothing on this host leads to its namespace"
            failed = there.send_all([rtnl.set_link(index, what="dressing a guest end", mac=mac)])
        return str(failed[0]) if failed else ""

    @contextlib.contextmanager
    def reach(self, nsid: int | None) -> Iterator[Netlink | None]:
        """A request socket in a namespace; None where nobody has a name for it."""
        fd = self._open(nsid)
        if fd is None:
            yield None
            return
        try:
            with namespace.inside(fd):
                there = Netlink()
        finally:
            os.close(fd)
        try:
            yield there
        finally:
            there.close()

    def related(self, nsid: int | None) -> set[int]:
        """Ids of the namespaces that the one of ``nsid`` has an id for, as for those that a device
        went to from it, or that have one for it, as where a device above one of its own was made;
        given now where they had none. Not those of NICs."""
        found: set[int] = set()
        here = self._open(nsid)
        if here is None:
            return found
        try:
            with self._inside(here) as own:
                for name, path in namespace.seen():
                    if not name.startswith("vfd-"):
                        with contextlib.suppress(OSError):
                            found |= self._if_related(own, here, path)
        finally:
            os.close(here)
        return found

    def _if_related(self, own: Netlink, here: int, path: Path) -> set[int]:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if nsids.nsid_of(own, fd) is None:
                with self._inside(fd) as other:
                    if nsids.nsid_of(other, here) is None:
                        return set()
            nsids.give_nsid(self._netlink, fd)
            known = nsids.nsid_of(self._netlink, fd)
            return set() if known is None else {known}
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _inside(self, fd: int) -> Iterator[Netlink]:
        with namespace.inside(fd):
            there = Netlink()
        try:
            yield there
        finally:
            there.close()

    def _open(self, nsid: int | None) -> int | None:
        """A descriptor of the namespace. Its path is remembered: 256 guests come at once."""
        known = self._paths.get(nsid)
        for path in itertools.chain([known] if known else [], self._seen(nsid)):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                with contextlib.suppress(OSError):
                    if nsids.nsid_of(self._netlink, fd) == nsid:
                        return fd
                os.close(fd)
        return None

    def _seen(self, nsid: int | None) -> Iterator[Path]:
        """The path that leads to the namespace now, found by looking at all."""
        self._paths = {self._nsid(path): path for _, path in namespace.seen()}
        if nsid in self._paths:
            yield self._paths[nsid]

    def _nsid(self, path: Path) -> int | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return nsids.nsid_of(self._netlink, fd)
        except OSError:
            return None
        finally:
            os.close(fd)
