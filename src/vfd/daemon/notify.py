"""Telling systemd how it goes: sd_notify(3) in a few lines."""

from __future__ import annotations

import os
import socket


def notify(**states: str) -> None:
    """Sends ``READY="1"``, ``STATUS="…"`` and so on; does nothing without a service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{key}={value}" for key, value in states.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), address)
        except OSError:
            pass  # a manager that doesn't listen is no reason to stop enforcing


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process at least; None: it doesn't ask."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6
