"""devlink health: a driver that noticed that its device failed, and what became of it.

Source: the kernel's Documentation/networking/devlink/devlink-health.rst and net/devlink/health.c,
devlink_recover_notify: told as ``devlink health`` shows a reporter, whenever its state changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfd.nic.kernel import genl
from vfd.nic.netlink import parse_attrs, split, text
from vfd.nic.protocol import Event, EventKind

_REPORTER_RECOVER = 54
_BUS, _DEVICE, _REPORTER, _NAME, _STATE = 1, 2, 114, 115, 116


@dataclass(frozen=True, slots=True)
class Health:
    """A reporter's news."""

    device: str
    """As devlink names it on its bus: a PCI address, ``netdevsim10``."""
    reporter: str
    """What the driver watches: ``fw``, ``fw_fatal``, ``tx`` …"""
    healthy: bool


def news(data: bytes) -> list[Health]:
    """What a datagram tells of reporters."""
    found = []
    for _, _, _, body in split(data):
        if not body or body[0] != _REPORTER_RECOVER:
            continue
        attrs = parse_attrs(body, genl.HEADER)
        if not {_BUS, _DEVICE, _REPORTER} <= attrs.keys():
            continue
        reporter = parse_attrs(attrs[_REPORTER])
        name, state = text(reporter.get(_NAME, b"")), reporter.get(_STATE, b"\1")
        found.append(Health(text(attrs[_DEVICE]), name, healthy=state[0] == 0))
    return found


def told(health: Health, device: str) -> list[Event]:
    """What is told of ``device``. A driver that recovers resets it: what VFs had is looked at
    again."""
    if health.device != device:
        return []
    outcome = "has recovered" if health.healthy else "failed"
    words = f"{device}: the driver says that {health.reporter} {outcome}"
    return [Event(EventKind.VF_RESET, text=words)]
