"""Calls into the kernel that may wait for a guest, or for whoever holds a device's lock.

Taking a device from its driver waits until vfio-pci's user lets it go (vfio_unregister_group_dev,
drivers/vfio/vfio_main.c), with the device's lock held and, where a PF's VFs are taken, the PF's.
Reading ``sriov_numvfs`` takes that lock, too (drivers/pci/iov.c). No signal ends such a call, so it
is made in a thread that can be left to itself: one guest must not stop the daemon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from vfd.nic.protocol import NicError

PATIENCE = 30.0
"""Seconds for a call about one device."""

T = TypeVar("T")

_left: dict[str, tuple[threading.Thread, float]] = {}
"""By what was asked for: calls that were left to themselves, and since when they wait."""


def patiently(what: str, work: Callable[[], T], seconds: float = PATIENCE) -> T:
    """What ``work`` returns or raises. ``what`` names it in errors, and calls of one name don't
    pile up.

    Raises NicError where it takes longer than ``seconds``, and at once while an earlier call of
    that name still waits. Such a call may yet succeed: events then tell what it did.
    """
    if what in _left:
        thread, since = _left[what]
        if thread.is_alive():
            raise NicError(_waits(what, time.monotonic() - since))
        del _left[what]
    returned: list[T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            returned.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, name=f"patiently {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        _left[what] = thread, time.monotonic() - seconds
        raise NicError(_waits(what, seconds))
    if raised:
        raise raised[0]
    return returned[0]


def _waits(what: str, seconds: float) -> str:
    return (
        f"{what}: the kernel has not done it in {seconds:.0f} s; it waits for whoever holds a VF by"
        " vfio, or for another program that changes the device (the kernel's log says whom): end"
        " that one"
    )
