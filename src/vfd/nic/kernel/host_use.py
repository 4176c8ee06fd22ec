"""What of this host's own network hangs on a PF's netdev: a change of the PF may cut it off."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator

from vfd.nic.netlink import Netlink, NetlinkError, parse_attrs, text, u32
from vfd.policy.shown import printable

_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE = 18, 22, 26
_IFINFO, _IFADDR, _RTMSG = (
    struct.Struct("=BxHiII"),
    struct.Struct("=BBBBi"),
    struct.Struct("=BBBBBBBBI"),
)
_IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINK_NETNSID = 3, 5, 10, 37
_IFA_ADDRESS, _IFA_LOCAL, _RTA_OIF = 1, 2, 4
_SCOPE_LINK = 253
"""RT_SCOPE_LINK: an address of this scope, or a host's own, is nobody's but this link's."""
_AF_INET, _AF_INET6, _UNICAST = 2, 10, 1


def host_use(netlink: Netlink, index: int) -> str:
    """In words; '' where nothing is known to. ``index``: the PF's netdev, in the namespace of the
    socket."""
    try:
        return ", ".join([*_links(netlink, index), *_addresses(netlink, index)])
    except NetlinkError:
        return ""


def _links(netlink: Netlink, index: int) -> Iterator[str]:
    """The bridge or bond that it belongs to, and VLANs and the like above it."""
    names, masters, above = {}, [], []
    for _, body in netlink.dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), "listing netdevs"):
        number, found = _IFINFO.unpack_from(body)[2], parse_attrs(body, _IFINFO.size)
        names[number] = printable(text(found.get(_IFLA_IFNAME, b"")))
        if number == index and _IFLA_MASTER in found:
            masters.append(u32(found[_IFLA_MASTER]))
        here = _IFLA_LINK_NETNSID not in found
        if here and number != index and _IFLA_LINK in found and u32(found[_IFLA_LINK]) == index:
            above.append(number)
    yield from (f"it is a port of {names.get(master, '?')}" for master in masters)
    yield from (f"{names[number]} is above it" for number in above)


def _addresses(netlink: Netlink, index: int) -> Iterator[str]:
    """Addresses that others may use, and the default route."""
    for _, body in netlink.dump(_RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), "listing addresses"):
        _, length, _, scope, owner = _IFADDR.unpack_from(body)
        found = parse_attrs(body, _IFADDR.size)
        address = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if owner == index and scope < _SCOPE_LINK and address:
            yield f"it has {ipaddress.ip_address(address)}/{length}"
    for family in (_AF_INET, _AF_INET6):
        asked = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for _, body in netlink.dump(_RTM_GETROUTE, asked, "listing routes"):
            _, length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(body)
            over = parse_attrs(body, _RTMSG.size).get(_RTA_OIF)
            if not length and kind == _UNICAST and over and u32(over) == index:
                yield "the default route leads over it"
                return
