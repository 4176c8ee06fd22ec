"""The IP addresses of a netdev: include/uapi/linux/if_addr.h."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vfd.nic.netlink import Netlink, parse_attrs

SCOPE_LINK = 253
"""RT_SCOPE_LINK: an address of this scope, or of a host's own, is nobody's but this link's."""
_IFADDR = struct.Struct("=BBBBi")
_RTM_GETADDR, _IFA_ADDRESS, _IFA_LOCAL = 22, 1, 2


@dataclass(frozen=True, slots=True)
class Address:
    family: int
    scope: int
    text: str
    """With the length of its prefix."""


def addresses(netlink: Netlink, index: int) -> Iterator[Address]:
    """Those of the netdev in the socket's namespace. Raises NetlinkError."""
    for _, body in netlink.dump(_RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, index), "listing addresses"):
        family, length, _, scope, owner = _IFADDR.unpack_from(body)
        found = parse_attrs(body, _IFADDR.size)
        raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
        if owner == index and len(raw) in (4, 16):
            yield Address(family, scope, f"{ipaddress.ip_address(raw)}/{length}")
