"""The ids that a network namespace has for others: ``include/uapi/linux/net_namespace.h``."""

from __future__ import annotations

import errno
import struct

from vfd.nic.netlink import Message, Netlink, attr, attr_u32, parse_attrs

RTM_NEWNSID, RTM_DELNSID, RTM_GETNSID = 88, 89, 90


def give_nsid(netlink: Netlink, namespace: int) -> None:
    """Gives the namespace of a descriptor an id in the socket's namespace, so that it is heard
    there. Harmless where it has one."""
    body = struct.pack("=Bxxx", 0) + attr(1, struct.pack("=i", -1)) + attr_u32(3, namespace)
    for failed in netlink.send_all([Message(RTM_NEWNSID, body, 0, "giving a namespace an id")]):
        if failed.errno != errno.EEXIST:
            raise failed


def parse_nsid(body: bytes) -> int | None:
    """The id in a message about one."""
    a = parse_attrs(body, 4)
    return int(struct.unpack_from("=i", a[1])[0]) if 1 in a else None  # NETNSA_NSID


def nsid_of(netlink: Netlink, namespace: int) -> int | None:
    """The id that the socket's namespace has for the one of a descriptor; None: none yet."""
    body = struct.pack("=Bxxx", 0) + attr_u32(3, namespace)  # NETNSA_FD
    nsid = parse_nsid(netlink.get(RTM_GETNSID, body, "asking for a namespace's id"))
    return None if nsid is None or nsid < 0 else nsid
