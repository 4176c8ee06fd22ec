"""Generic netlink: families, which have no fixed numbers (include/uapi/linux/genetlink.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from vfd.nic.netlink import Netlink, attr_text, parse_attrs, text, u32

_GENL_ID_CTRL, _CTRL_GETFAMILY = 16, 3
_ID, _NAME, _GROUPS = 1, 2, 7
_GROUP_NAME, _GROUP_ID = 1, 2
HEADER = 4
"""Bytes of struct genlmsghdr before the attributes of a message."""


@dataclass(frozen=True, slots=True)
class Family:
    id: int
    """The type of its messages."""
    groups: Mapping[str, int]
    """Its multicast groups' numbers."""


def family(netlink: Netlink, name: str) -> Family:
    """Raises NetlinkError: ENOENT where the kernel has no such family."""
    body = message(_CTRL_GETFAMILY, attr_text(_NAME, name))
    found = parse_attrs(netlink.get(_GENL_ID_CTRL, body, f"the {name} family"), HEADER)
    groups = [parse_attrs(group) for group in parse_attrs(found.get(_GROUPS, b"")).values()]
    return Family(
        int.from_bytes(found[_ID][:2], "little"),
        {text(group[_GROUP_NAME]): u32(group[_GROUP_ID]) for group in groups},
    )


def message(command: int, *attributes: bytes) -> bytes:
    return struct.pack("=BBH", command, 1, 0) + b"".join(attributes)
