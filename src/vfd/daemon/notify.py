"""Telling systemd how it goes: sd_notify(3) in a few lines."""

from __future__ import annotations

import os
import socket

_untold: dict[tuple[str, ...], str] = {}
"""What the manager's queue had no room for, the oldest first: of each kind the last one only, so
that it stays short whatever the manager does."""


def notify(**states: str) -> None:
    """Sends ``READY="1"``, ``STATUS="…"`` and so on; does nothing without a service manager. Never
    waits: what a manager that is behind has no room for is sent with the next call."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = tuple(states)
    _untold.pop(kind, None)
    _untold[kind] = "\n".join(f"{key}={value}" for key, value in states.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        for kind, message in list(_untold.items()):
            try:
                sock.sendto(message.encode(), address)
            except BlockingIOError:
                return
            except OSError:
                pass  # a manager that doesn't listen is no reason to stop enforcing
            del _untold[kind]


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process at least; None: it doesn't ask."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6
