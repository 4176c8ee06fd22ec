"""devlink health: a driver that noticed that its device failed, and what became of it.

Source: the kernel's Documentation/networking/devlink/devlink-health.rst and net/devlink/health.c,
devlink_recover_notify: told as ``devlink health`` shows a reporter, whenever its state changes.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass

from vfd.nic.netlink import (
    NETLINK_GENERIC,
    Netlink,
    NetlinkError,
    attr_text,
    parse_attrs,
    split,
    text,
    u32,
)

_GENL_ID_CTRL, _CTRL_GETFAMILY = 16, 3
_CTRL_NAME, _CTRL_GROUPS, _GROUP_NAME, _GROUP_ID = 2, 7, 1, 2
_REPORTER_RECOVER = 54
_BUS, _DEVICE, _REPORTER, _NAME, _STATE = 1, 2, 114, 115, 116
_GENL = struct.Struct("=BBH")


@dataclass(frozen=True, slots=True)
class Health:
    """A reporter's news."""

    device: str
    """As devlink names it on its bus: a PCI address, ``netdevsim10``."""
    reporter: str
    """What the driver watches: ``fw``, ``fw_fatal``, ``tx`` …"""
    healthy: bool


def news_group() -> int | None:
    """The multicast group of devlink's news; None where the kernel has no devlink."""
    with contextlib.closing(Netlink(NETLINK_GENERIC)) as netlink:
        body = _GENL.pack(_CTRL_GETFAMILY, 1, 0) + attr_text(_CTRL_NAME, "devlink")
        try:
            answer = netlink.get(_GENL_ID_CTRL, body, "the devlink family")
        except NetlinkError:
            return None
    for group in parse_attrs(parse_attrs(answer, _GENL.size)[_CTRL_GROUPS]).values():
        found = parse_attrs(group)
        if text(found[_GROUP_NAME]) == "config":
            return u32(found[_GROUP_ID])
    return None


def news(data: bytes) -> list[Health]:
    """What a datagram tells of reporters."""
    found = []
    for _, _, _, body in split(data):
        if len(body) < _GENL.size or _GENL.unpack_from(body)[0] != _REPORTER_RECOVER:
            continue
        attrs = parse_attrs(body, _GENL.size)
        if not {_BUS, _DEVICE, _REPORTER} <= attrs.keys():
            continue
        reporter = parse_attrs(attrs[_REPORTER])
        name, state = text(reporter.get(_NAME, b"")), reporter.get(_STATE, b"\1")
        found.append(Health(text(attrs[_DEVICE]), name, healthy=state[0] == 0))
    return found
