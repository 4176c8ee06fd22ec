"""Which VFs are open, and so which have just come into force: those whose ``start_cb`` is due.

It is told from what the NICs show and from nothing else, whatever opened a VF: a request, a reload,
a link that came up, a PF that came back.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfd.daemon.aim import Aim, Configured
from vfd.daemon.managed import Condition, Managed
from vfd.nic.protocol import NicState


class Openings:
    """The VFs that were open when it was last asked, by PF."""

    def __init__(self) -> None:
        self._open: dict[str, set[int]] = {}
        self._looked: dict[str, tuple[NicState | None, Aim | None]] = {}

    def adopt(self, managed: Managed) -> None:
        """What a NIC shows when it is taken over has not just come into force."""
        self._open[managed.id] = _open_now(managed)

    def news(self, nics: Iterable[Managed]) -> list[Configured]:
        """The VFs that have a configuration and were closed when this was last asked."""
        found = []
        for managed in nics:
            if managed.nic is None or managed.condition is Condition.LOST:
                self._open[managed.id] = set()
                self._looked.pop(managed.id, None)
                continue
            # Both are replaced when they change: a request that changes nothing costs nothing here.
            looked = self._looked.get(managed.id, (None, None))
            if looked[0] is managed.seen and looked[1] is managed.aim:
                continue
            self._looked[managed.id] = (managed.seen, managed.aim)
            before, now = self._open.get(managed.id, set()), _open_now(managed)
            self._open[managed.id] = now
            vfs = managed.vfs
            found += [vfs[vfid] for vfid in sorted(now - before) if vfid in vfs]
        return found


def _open_now(managed: Managed) -> set[int]:
    seen = managed.seen.vfs if managed.seen else {}
    return {vfid for vfid in seen if not managed.is_closed(vfid) and not managed.is_left(vfid)}
