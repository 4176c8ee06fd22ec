"""What of this host's own network hangs on a PF's netdev: a change of the PF may cut it off.

Asked at every look at a PF, so nothing is listed that may be long: neither routes nor netdevs.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator

from vfd.nic.addresses import SCOPE_LINK, addresses
from vfd.nic.kernel.sriov import NETDEVS, link_name
from vfd.nic.netlink import Netlink, NetlinkError, attr, parse_attrs, u32
from vfd.policy.shown import printable

_RTM_GETROUTE, _RTA_DST, _RTA_OIF = 26, 1, 4
_RTMSG = struct.Struct("=BBBBBBBBI")
_FIB_MATCH = 0x2000
"""RTM_F_FIB_MATCH: the route itself is told, and not what becomes of one address."""
_FAR = {2: ipaddress.ip_address("198.51.100.1"), 10: ipaddress.ip_address("2001:db8::1")}
"""By family, an address that nobody has (RFC 5737, RFC 3849): the default route leads to it."""


def host_use(netlink: Netlink, index: int) -> str:
    """In words; '' where nothing is known to. ``index``: the PF's netdev, in the namespace of the
    socket."""
    found = [*_links(index)]
    try:
        found += _addresses(netlink, index)
    except NetlinkError as error:
        found.append(f"whether it has addresses can't be told ({error.strerror})")
    if any(_is_default(netlink, family, index) for family in _FAR):
        found.append("the default route leads over it")
    return ", ".join(found)


def _links(index: int) -> Iterator[str]:
    """The bridge or bond that it belongs to, and VLANs and the like above it."""
    try:
        netdev = socket.if_indextoname(index)
    except OSError:
        return
    if master := link_name(NETDEVS / netdev / "master"):
        yield f"it is a port of {printable(master)}"
    for upper in sorted((NETDEVS / netdev).glob("upper_*")):
        name = upper.name.removeprefix("upper_")
        if name != master:
            yield f"{printable(name)} is above it"


def _addresses(netlink: Netlink, index: int) -> Iterator[str]:
    """Those by which others may reach this host."""
    for address in addresses(netlink, index):
        if address.scope < SCOPE_LINK:
            yield f"it has {address.text}"


def _is_default(netlink: Netlink, family: int, index: int) -> bool:
    far = _FAR[family]
    head = _RTMSG.pack(family, far.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
    try:
        body = netlink.get(_RTM_GETROUTE, head + attr(_RTA_DST, far.packed), "the default route")
    except NetlinkError:
        return False  # there is none
    over = parse_attrs(body, _RTMSG.size).get(_RTA_OIF)
    return over is not None and u32(over) == index and not _RTMSG.unpack_from(body)[1]
