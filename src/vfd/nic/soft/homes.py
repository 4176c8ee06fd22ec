"""The namespaces that guests live in: what they are called, and reaching into them.

A NIC knows a guest's namespace by an id; a name, or a process in it, leads there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from vfd.nic.netlink import Netlink
from vfd.nic.soft import namespace, rtnl


class Homes:
    """The namespaces with an id in that of ``netlink``."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._names: dict[int | None, str] = {}

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
                        self._names[nsid] = name
                        missing.discard(nsid)
                    if not missing:
                        break
        return self._names

    def set_mac(self, nsid: int | None, index: int, mac: str) -> None:
        """Sets a netdev's MAC in a namespace, if that can be reached."""
        for _, path in namespace.seen():
            if self._nsid(path) != nsid:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with namespace.inside(fd):
                    there = Netlink()
                try:
                    there.send_all([rtnl.set_link(index, what="dressing a guest end", mac=mac)])
                finally:
                    there.close()
            finally:
                os.close(fd)
            return

    def _nsid(self, path: Path) -> int | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return rtnl.nsid_of(self._netlink, fd)
        except OSError:
            return None
        finally:
            os.close(fd)
