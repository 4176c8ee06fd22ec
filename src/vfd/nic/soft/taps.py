"""Taps: who holds them, and what their guests, of whom only frames are seen, ask for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from vfd.nic.inotify import CLOSE, Inotify
from vfd.nic.protocol import Event
from vfd.nic.soft import rtnl
from vfd.nic.soft.guests import Place
from vfd.nic.soft.rtnl import Link
from vfd.nic.soft.switch import Switch
from vfd.policy.requests import Request, RequestKind

_TUN = Path("/dev/net/tun")
_MOST_SOURCES = 256
"""What is remembered of the MACs that a guest sent from; more than it can be granted."""


class Owner(Protocol):
    def guest_moved(self, vfid: int, before: Place | None, after: Place | None) -> list[Event]: ...
    def guest_stays(self, vfid: int) -> None: ...


class Taps:
    """Those of one NIC. Of a NIC without taps nothing is ever heard."""

    def __init__(self, switch: Switch, owner: Owner) -> None:
        self.guests = TapGuests()
        self._switch = switch
        self._owner = owner
        self._holders = _Holders() if switch.tap else None
        self._released = False
        """A process let go of a tap since the last ``let_go``."""

    def fileno(self) -> int | None:
        return self._holders.fileno() if self._holders else None

    def close(self) -> None:
        if self._holders:
            self._holders.close()

    def held(self, vfid: int, now: Link) -> Iterator[Event]:
        """A tap has carrier while a process holds it, unless that says that it has none (QEMU's
        ``set_link``). One process may follow another faster than the kernel tells."""
        port = self._switch.ports[vfid]
        had, port.carrier = port.carrier, now.carrier
        losses, port.losses = now.losses - port.losses, now.losses
        if port.held and not self._stays(vfid, had, now.carrier, losses):
            port.held = False
            yield from self._owner.guest_moved(vfid, (None, now.index), None)
        elif port.held and now.carrier and not had:
            self._owner.guest_stays(vfid)
        if now.carrier and not port.held:
            port.held = True
            self.guests.forget(vfid)
            yield from self._owner.guest_moved(vfid, None, (None, now.index))

    def _stays(self, vfid: int, had: bool, has: bool, losses: int) -> bool:
        """Whether it is the guest that held it before."""
        if has:
            return not losses and (had or not self._was_released())
        # lost once at most and held all the same: to take a tap anew gives it carrier
        return losses == had and self._is_held(vfid)

    def let_go(self) -> Iterator[Event]:
        """That a process lets go of a tap whose carrier it took away isn't told of that tap."""
        if self._was_released():
            for vfid, port in tuple(self._switch.ports.items()):
                if port.held and not port.carrier:
                    now = rtnl.link(self._switch.netlink, index=port.host)
                    if now is not None:
                        yield from self.held(vfid, now)
        self._released = False

    def seek(self, vfids: Iterable[int]) -> None:
        for vfid in vfids if self._switch.tap else ():
            if (port := self._switch.ports.get(vfid)) and not port.carrier:
                port.held = self._is_held(vfid)

    def _was_released(self) -> bool:
        self._released = self._released or (self._holders is not None and self._holders.let_go())
        return self._released

    def _is_held(self, vfid: int) -> bool:
        return self._holders is not None and self._holders.hold(self._switch.guest_name(vfid))


class _Holders:
    """Of all taps of this host, behind a descriptor that can be read when a process let go of one
    (None: nothing tells)."""

    def __init__(self) -> None:
        self._closed: Inotify | None = None
        with contextlib.suppress(OSError):
            closed = Inotify(CLOSE)
            try:
                closed.watch(_TUN)
            except OSError:
                closed.close()
            else:
                self._closed = closed

    def fileno(self) -> int | None:
        return self._closed.fileno() if self._closed else None

    def close(self) -> None:
        if self._closed:
            self._closed.close()

    def let_go(self) -> bool:
        """Whether a process let go of a tap since the last time, or may have."""
        return self._closed is None or self._closed.read()

    def hold(self, name: str) -> bool:
        """Whether any process holds the tap. A walk through /proc: trying to open it would keep a
        guest out that comes just now."""
        wanted = f"iff:\t{name}\n"
        for process in os.scandir("/proc"):
            if process.name.isdigit():
                with contextlib.suppress(OSError):
                    for fd in os.listdir(f"{process.path}/fd"):  # noqa: PTH208
                        opened = f"{process.path}/fd/{fd}"
                        with contextlib.suppress(OSError):
                            if os.readlink(opened) == str(_TUN):  # noqa: PTH115
                                info = Path(f"{process.path}/fdinfo/{fd}").read_text()
                                if wanted in info:
                                    return True
        return False


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
