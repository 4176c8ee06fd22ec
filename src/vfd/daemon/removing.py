"""Software NICs that are being taken away.

The main configuration no longer lists such a NIC, so no start would look at what a daemon left that
was killed amid it: it is remembered, and the next start finishes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from vfd.daemon.exclusive import InUseError, lock_nic
from vfd.daemon.memory import Memory
from vfd.nic.discovery import remove_nic
from vfd.nic.protocol import NicError
from vfd.policy.values import PfPolicy

if TYPE_CHECKING:
    from vfd.daemon.service import Service


@contextmanager
def remembered(memory: Memory, pf_id: str, guests: Sequence[str]) -> Iterator[None]:
    """While it is taken away, whose VFs are for these kinds of guests."""
    memory.keep(replace(memory.kept, removing={**memory.kept.removing, pf_id: tuple(guests)}))
    try:
        yield
    finally:
        _forget(memory, pf_id)


def finish(service: Service) -> None:
    """Takes away what is left. What is listed again, or another daemon's by now, stays."""
    memory = service.files.memory
    for pf_id, guests in memory.kept.removing.items():
        try:
            if pf_id not in service.nics:
                _take_away(pf_id, guests, service.holder)
                text = f"{pf_id} is removed, which the daemon before had begun"
                service.journal.emit("pf", text, pf=pf_id)
        except InUseError:
            pass
        except NicError as error:
            service.journal.emit("failed", str(error), level="error", pf=pf_id)
            continue
        _forget(memory, pf_id)


def _take_away(pf_id: str, guests: Sequence[str], holder: str) -> None:
    lock = lock_nic(pf_id, holder)
    try:
        for guest in guests:
            remove_nic(PfPolicy.model_validate({"id": pf_id, "backend": "soft", "guest": guest}))
    finally:
        lock.close(remove=True)


def _forget(memory: Memory, pf_id: str) -> None:
    rest = {one: guests for one, guests in memory.kept.removing.items() if one != pf_id}
    memory.keep(replace(memory.kept, removing=rest))
