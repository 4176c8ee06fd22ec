"""The route netlink messages that the soft NIC sends and reads: links, qdiscs, classes, filters.

Layouts and numbers are those of ``include/uapi/linux/{rtnetlink,if_link,pkt_sched,pkt_cls}.h``.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
from dataclasses import dataclass

from vfd.nic.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    SOL_NETLINK,
    TRIES,
    Message,
    Netlink,
    TornError,
    attr,
    attr_text,
    attr_u8,
    attr_u32,
    attr_u64,
    nest,
    parse_attrs,
    text,
    u32,
    u64,
)
from vfd.policy.addresses import mac_bytes, mac_text

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTCLASS, RTM_DELTCLASS, RTM_GETTCLASS = 40, 41, 42
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
RTM_NEWMULTICAST, RTM_DELMULTICAST, RTM_GETMULTICAST = 56, 57, 58

RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC, RTNLGRP_NSID = 1, 3, 4, 28
RTNLGRP_IPV4_MCADDR, RTNLGRP_IPV6_MCADDR = 37, 38

IFF_UP, IFF_RUNNING, IFF_NOARP = 0x1, 0x40, 0x80
IFF_PROMISC, IFF_ALLMULTI, IFF_LOWER_UP = 0x100, 0x200, 0x10000

_IFINFO = struct.Struct("=BxHiII")
_TCMSG = struct.Struct("=BxHiIII")
_NDMSG = struct.Struct("=BxHiHBB")
_IFADDR = struct.Struct("=BBBBi")

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_NET_NS_FD = 18, 20, 26, 28
IFLA_EXT_MASK, IFLA_PROMISCUITY, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 29, 30, 31, 32
IFLA_CARRIER, IFLA_CARRIER_DOWN_COUNT, IFLA_MAX_MTU = 33, 48, 51
IFLA_LINK_NETNSID, IFLA_NEW_NETNSID = 37, 45
IFLA_TARGET_NETNSID, IFLA_NEW_IFINDEX, IFLA_ALLMULTI = 46, 49, 61
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
RTEXT_FILTER_SKIP_STATS = 8
AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7

TCA_KIND, TCA_OPTIONS, TCA_STATS2, TCA_INGRESS_BLOCK = 1, 2, 7, 13
TCA_STATS_QUEUE = 3
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS, TCA_BPF_ID = 6, 7, 8, 11
TCA_BPF_FLAG_ACT_DIRECT = 1
TCA_HTB_PARMS, TCA_HTB_INIT, TCA_HTB_DIRECT_QLEN = 1, 2, 5
TCA_HTB_RATE64, TCA_HTB_CEIL64 = 6, 7
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
CLSACT_HANDLE, CLSACT_PARENT, TC_H_ROOT = 0xFFFF0000, 0xFFFFFFF1, 0xFFFFFFFF
BLOCK = 0xFFFFFFFF
"""``TCM_IFINDEX_MAGIC_BLOCK``: the filter belongs to a shared block, not to a device."""
_ALL_PROTOCOLS = 0x0300  # htons(ETH_P_ALL)
_FILTER_PRIORITY = 1
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: no rate tables are needed
_TICK_NS = 64  # PSCHED_SHIFT 6


@dataclass(frozen=True, slots=True)
class Link:
    """A netdev as the kernel shows it, in a listing or in a notification."""

    index: int
    flags: int
    name: str
    mac: str
    mtu: int
    max_mtu: int
    """The largest that its driver takes now; 0: no limit is told."""
    kind: str
    link: int | None
    """The other end of a veth, or the device below a macvlan or VLAN device."""
    link_nsid: int | None
    """The namespace that ``link`` is in, where it is another; an id of the asking namespace."""
    master: int | None
    promiscuity: int
    allmulti: int
    carrier: bool
    losses: int
    """How often it lost its carrier; 0 where the kernel doesn't tell."""
    new_nsid: int | None
    """In RTM_DELLINK of a device that moved: where to."""
    alias: str = ""

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    a = parse_attrs(body, _IFINFO.size)
    info = parse_attrs(a[IFLA_LINKINFO]) if IFLA_LINKINFO in a else {}
    mac = a.get(IFLA_ADDRESS, b"")
    return Link(
        index=index,
        flags=flags,
        name=text(a.get(IFLA_IFNAME, b"")),
        mac=mac_text(mac) if len(mac) == 6 else "",
        mtu=u32(a[IFLA_MTU]) if IFLA_MTU in a else 0,
        max_mtu=u32(a[IFLA_MAX_MTU]) if IFLA_MAX_MTU in a else 0,
        kind=text(info.get(IFLA_INFO_KIND, b"")),
        link=u32(a[IFLA_LINK]) if IFLA_LINK in a else None,
        link_nsid=_signed(a[IFLA_LINK_NETNSID]) if IFLA_LINK_NETNSID in a else None,
        master=u32(a[IFLA_MASTER]) if IFLA_MASTER in a else None,
        promiscuity=u32(a[IFLA_PROMISCUITY]) if IFLA_PROMISCUITY in a else 0,
        # kernels before 6.1 don't tell the count
        allmulti=u32(a[IFLA_ALLMULTI]) if IFLA_ALLMULTI in a else int(bool(flags & IFF_ALLMULTI)),
        carrier=bool(a[IFLA_CARRIER][0]) if IFLA_CARRIER in a else bool(flags & IFF_LOWER_UP),
        losses=u32(a[IFLA_CARRIER_DOWN_COUNT]) if IFLA_CARRIER_DOWN_COUNT in a else 0,
        new_nsid=_signed(a[IFLA_NEW_NETNSID]) if IFLA_NEW_NETNSID in a else None,
        alias=text(a.get(IFLA_IFALIAS, b"")),
    )


def _signed(raw: bytes) -> int:
    return int(struct.unpack_from("=i", raw)[0])


def links(netlink: Netlink, nsid: int | None = None, *, tries: int = TRIES) -> list[Link]:
    """All links of the socket's namespace, or of the one with the id ``nsid`` in it."""
    body = _ifinfo() + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS) + _target(nsid)
    answers = netlink.dump(RTM_GETLINK, body, "listing links", tries=tries)
    return [parse_link(b) for _, b in answers]


def link(
    netlink: Netlink, *, index: int = 0, name: str = "", nsid: int | None = None
) -> Link | None:
    """One link by its index or name; None: there is none."""
    body = _ifinfo(index) + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS) + _target(nsid)
    if name:
        body += attr_text(IFLA_IFNAME, name)
    try:
        return parse_link(netlink.get(RTM_GETLINK, body, f"looking for link {name or index}"))
    except OSError as e:
        if e.errno in (errno.ENODEV, errno.EINVAL):  # EINVAL: no such namespace any more
            return None
        raise


def _target(nsid: int | None) -> bytes:
    return b"" if nsid is None else attr(IFLA_TARGET_NETNSID, struct.pack("=i", nsid))


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, index, flags, change)


def _no_ipv6() -> bytes:
    """The kernel makes no link-local address, so it says nothing on the link by itself."""
    inet6 = nest(AF_INET6, attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE))
    return nest(IFLA_AF_SPEC, inet6)


def new_veth(
    name: str,
    index: int,
    peer: str,
    *,
    mtu: int,
    peer_mtu: int,
    peer_mac: str | None = None,
    peer_index: int = 0,
    peer_ns: int | None = None,
    up: bool = False,
) -> Message:
    """A veth pair: ``name`` here, never answering ARP; ``peer`` here or in the namespace of the
    descriptor ``peer_ns``. ``up`` concerns both ends of a pair that stays here, else ours."""
    one_queue = attr_u32(IFLA_NUM_TX_QUEUES, 1) + attr_u32(IFLA_NUM_RX_QUEUES, 1)
    flags = (IFF_UP if up else 0) | IFF_NOARP
    here = peer_ns is None
    other = _ifinfo(peer_index, flags if here else 0, flags if here else 0)
    other += attr_text(IFLA_IFNAME, peer) + attr_u32(IFLA_MTU, peer_mtu) + one_queue
    if peer_mac:
        other += attr(IFLA_ADDRESS, mac_bytes(peer_mac))
    if peer_ns is not None:
        other += attr_u32(IFLA_NET_NS_FD, peer_ns)
    body = _ifinfo(index, flags, flags)
    body += attr_text(IFLA_IFNAME, name) + attr_u32(IFLA_MTU, mtu) + one_queue
    body += nest(
        IFLA_LINKINFO,
        attr_text(IFLA_INFO_KIND, "veth"),
        nest(IFLA_INFO_DATA, attr(VETH_INFO_PEER, other)),
    )
    return Message(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL, f"making {name} and {peer}")


def set_link(
    index: int,
    *,
    what: str,
    up: bool | None = None,
    flags: int = 0,
    flags_mask: int = 0,
    mac: str | None = None,
    mtu: int | None = None,
    name: str | None = None,
    namespace: int | None = None,
    new_index: int | None = None,
    alias: str | None = None,
    silent: bool = False,
) -> Message:
    """Changes a link. ``namespace``: moves it to that of the descriptor, as ``new_index``.
    ``silent``: the kernel's IPv6 leaves it alone."""
    if up is not None:
        flags_mask |= IFF_UP
        flags |= IFF_UP if up else 0
    body = _ifinfo(index, flags, flags_mask)
    if mac is not None:
        body += attr(IFLA_ADDRESS, mac_bytes(mac))
    if mtu is not None:
        body += attr_u32(IFLA_MTU, mtu)
    if name is not None:
        body += attr_text(IFLA_IFNAME, name)
    if alias is not None:
        # the kernel takes an alias away that is empty, without the zero byte of a text
        body += attr_text(IFLA_IFALIAS, alias) if alias else attr(IFLA_IFALIAS, b"")
    if namespace is not None:
        body += attr_u32(IFLA_NET_NS_FD, namespace)
        if new_index is not None:
            body += attr_u32(IFLA_NEW_IFINDEX, new_index)
    if silent:
        body += _no_ipv6()
    return Message(RTM_SETLINK, body, 0, what)


def del_link(index: int, what: str) -> Message:
    return Message(RTM_DELLINK, _ifinfo(index), 0, what)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of a device's own unicast list (``bridge fdb … self``)."""

    index: int
    mac: str
    self_entry: bool


def parse_neighbour(body: bytes) -> Neighbour:
    _, _, index, _, flags, _ = _NDMSG.unpack_from(body)
    mac = parse_attrs(body, 12).get(2, b"")
    return Neighbour(index, mac_text(mac) if len(mac) == 6 else "", bool(flags & 2))


def own_addresses(netlink: Netlink, index: int) -> frozenset[str]:
    """All that a device's own address lists hold, unicast and multicast, whoever put it there:
    ``bridge fdb``, a device above, an IP group. The kernel lists only the socket's namespace."""
    body = _NDMSG.pack(AF_BRIDGE, 0, index, 0, 0, 0)
    answers = netlink.dump(RTM_GETNEIGH, body, "listing an interface's addresses")
    found = [parse_neighbour(b) for _, b in answers]
    return frozenset(n.mac for n in found if n.index == index and n.self_entry and n.mac)


@dataclass(frozen=True, slots=True)
class Membership:
    """An IP multicast group joined on a device."""

    index: int
    group: bytes

    @property
    def mac(self) -> str:
        """The group's MAC: RFC 1112, 6.4, and RFC 2464, 7."""
        if len(self.group) == 4:
            low = bytes((self.group[1] & 0x7F, self.group[2], self.group[3]))
            return mac_text(b"\x01\x00\x5e" + low)
        return mac_text(b"\x33\x33" + self.group[-4:])


def parse_membership(body: bytes) -> Membership | None:
    index = _IFADDR.unpack_from(body)[4]
    a = parse_attrs(body, _IFADDR.size)
    group = a.get(7) or a.get(1)  # IFA_MULTICAST, IFA_ADDRESS
    return Membership(index, group) if group and len(group) in (4, 16) else None


@functools.cache
def tells_groups() -> bool:
    """Whether the kernel tells who joins and leaves IP groups: Linux 6.14 does, older ones don't
    have the notification groups (net/ipv4/igmp.c, inet_ifmcaddr_notify)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as asked:
        try:
            asked.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV4_MCADDR)
        except OSError:
            return False
    return True


def memberships(
    netlink: Netlink, nsid: int | None, *, tries: int = TRIES
) -> dict[int, list[Membership]]:
    """The groups joined in a namespace, by address family; a family that this kernel can't list
    (IPv4 before 6.14) is not there. Raises TornError."""
    found: dict[int, list[Membership]] = {}
    for family in (AF_INET, AF_INET6):
        body = _IFADDR.pack(family, 0, 0, 0, 0)
        if nsid is not None:
            body += attr(10, struct.pack("=i", nsid))  # IFA_TARGET_NETNSID
        try:
            answers = netlink.dump(RTM_GETMULTICAST, body, "listing multicast groups", tries=tries)
        except TornError:
            raise
        except OSError:
            continue
        found[family] = [m for _, b in answers if (m := parse_membership(b))]
    return found


def _tc(index: int, handle: int, parent: int, info: int = 0) -> bytes:
    return _TCMSG.pack(0, 0, index if index < 1 << 31 else -1, handle, parent, info)


@dataclass(frozen=True, slots=True)
class Tc:
    """A qdisc, class or filter as the kernel shows it."""

    index: int
    handle: int
    parent: int
    kind: str
    options: bytes
    drops: int
    block: int | None


def parse_tc(body: bytes) -> Tc:
    _, _, index, handle, parent, _ = _TCMSG.unpack_from(body)
    a = parse_attrs(body, _TCMSG.size)
    drops = 0
    if TCA_STATS2 in a:
        queue = parse_attrs(a[TCA_STATS2]).get(TCA_STATS_QUEUE)
        if queue:
            drops = u32(queue[8:12])  # gnet_stats_queue: qlen, backlog, drops, …
    return Tc(
        index=index,
        handle=handle,
        parent=parent,
        kind=text(a.get(TCA_KIND, b"")),
        options=a.get(TCA_OPTIONS, b""),
        drops=drops,
        block=u32(a[TCA_INGRESS_BLOCK]) if TCA_INGRESS_BLOCK in a else None,
    )


def qdiscs(netlink: Netlink, index: int = 0) -> list[Tc]:
    answers = netlink.dump(RTM_GETQDISC, _tc(index, 0, 0), "listing qdiscs")
    found = [parse_tc(b) for _, b in answers]
    return [q for q in found if not index or q.index == index]


def classes(netlink: Netlink, index: int) -> list[Tc]:
    answers = netlink.dump(RTM_GETTCLASS, _tc(index, 0, 0), "listing classes")
    return [parse_tc(b) for _, b in answers]


def new_clsact(index: int, block: int, what: str) -> Message:
    """The ingress hook of a device, taking its filters from a shared block."""
    body = _tc(index, CLSACT_HANDLE, CLSACT_PARENT) + attr_text(TCA_KIND, "clsact")
    body += attr_u32(TCA_INGRESS_BLOCK, block)
    return Message(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL, what)


def del_clsact(index: int, what: str) -> Message:
    return Message(RTM_DELQDISC, _tc(index, CLSACT_HANDLE, CLSACT_PARENT), 0, what)


def bpf_filter(block: int, program: int, name: str) -> Message:
    """The block's one filter: direct action by the program of a descriptor. Replaces the
    program of one that is there in one step: no frame passes without one or the other."""
    body = _tc(BLOCK, 1, block, _FILTER_PRIORITY << 16 | _ALL_PROTOCOLS)
    body += attr_text(TCA_KIND, "bpf")
    body += nest(
        TCA_OPTIONS,
        attr_u32(TCA_BPF_FD, program),
        attr_text(TCA_BPF_NAME, name),
        attr_u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    )
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return Message(RTM_NEWTFILTER, body, flags, f"attaching the program {name}")


def bpf_filter_of(netlink: Netlink, block: int) -> tuple[int, str] | None:
    """(id of the program, name) of a block's filter; None: no such block or no filter in it."""
    try:
        answers = netlink.dump(RTM_GETTFILTER, _tc(BLOCK, 0, block), "listing filters")
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.EINVAL):  # no such block
            return None
        raise
    for _, body in answers:
        found = parse_tc(body)
        options = parse_attrs(found.options)
        if found.kind == "bpf" and TCA_BPF_ID in options:
            return u32(options[TCA_BPF_ID]), text(options.get(TCA_BPF_NAME, b""))
    return None


def _ratespec(bytes_per_second: int) -> bytes:
    low = min(bytes_per_second, 0xFFFFFFFF)
    return struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, low)


def _ticks(size: int, bytes_per_second: int) -> int:
    return min(0xFFFFFFFF, size * 1_000_000_000 // max(1, bytes_per_second) // _TICK_NS)


def new_htb(index: int, handle: int, what: str) -> Message:
    """An HTB root whose unclassified frames pass unshaped (default 0)."""
    body = _tc(index, handle, TC_H_ROOT) + attr_text(TCA_KIND, "htb")
    glob = struct.pack("=IIIII", 3, 10, 0, 0, 0)
    body += nest(TCA_OPTIONS, attr(TCA_HTB_INIT, glob), attr_u32(TCA_HTB_DIRECT_QLEN, 1000))
    return Message(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL, what)


def htb_class(
    index: int,
    classid: int,
    parent: int,
    *,
    rate: int,
    ceil: int,
    burst: int,
    cburst: int,
    quantum: int,
    priority: int,
    what: str,
) -> Message:
    """Makes or changes an HTB class. Rates in bits per second, bursts and quantum in bytes."""
    rate8, ceil8 = max(1, rate // 8), max(1, ceil // 8)
    params = _ratespec(rate8) + _ratespec(ceil8)
    params += struct.pack(
        "=IIIII", _ticks(burst, rate8), _ticks(cburst, ceil8), quantum, 0, priority
    )
    options = attr(TCA_HTB_PARMS, params)
    options += attr_u64(TCA_HTB_RATE64, rate8) + attr_u64(TCA_HTB_CEIL64, ceil8)
    body = _tc(index, classid, parent) + attr_text(TCA_KIND, "htb")
    return Message(RTM_NEWTCLASS, body + nest(TCA_OPTIONS, options), NLM_F_CREATE, what)


@dataclass(frozen=True, slots=True)
class HtbClass:
    """An HTB class read back. Rates in bits per second."""

    classid: int
    parent: int
    rate: int
    ceil: int
    quantum: int
    priority: int
    drops: int


def parse_htb_class(found: Tc) -> HtbClass | None:
    a = parse_attrs(found.options)
    params = a.get(TCA_HTB_PARMS)
    if found.kind != "htb" or params is None:
        return None
    rate, ceil = u32(params[8:12]), u32(params[20:24])
    _, _, quantum, _, priority = struct.unpack_from("=IIIII", params, 24)
    return HtbClass(
        classid=found.handle,
        parent=found.parent,
        rate=8 * (u64(a[TCA_HTB_RATE64]) if TCA_HTB_RATE64 in a else rate),
        ceil=8 * (u64(a[TCA_HTB_CEIL64]) if TCA_HTB_CEIL64 in a else ceil),
        quantum=quantum,
        priority=priority,
        drops=found.drops,
    )


def del_class(index: int, classid: int, what: str) -> Message:
    return Message(RTM_DELTCLASS, _tc(index, classid, 0), 0, what)


def new_pfifo(index: int, parent: int, limit: int, what: str) -> Message:
    """A queue of ``limit`` buffers under a class."""
    handle = (parent & 0xFFFF) << 16
    body = _tc(index, handle, parent) + attr_text(TCA_KIND, "pfifo")
    body += attr(TCA_OPTIONS, struct.pack("=I", limit))
    return Message(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_REPLACE, what)


def tbf(index: int, *, rate: int, burst: int, limit: int, what: str) -> Message:
    """Makes or changes the token bucket at a device's root. ``rate`` in bits per second,
    ``burst`` and ``limit`` (the queue) in bytes, the latter as much of it as 32 bits hold."""
    rate8 = max(1, rate // 8)
    params = _ratespec(rate8) + bytes(12)
    params += struct.pack("=III", min(limit, 0xFFFFFFFF), _ticks(burst, rate8), 0)
    body = _tc(index, TBF_HANDLE, TC_H_ROOT) + attr_text(TCA_KIND, "tbf")
    body += nest(
        TCA_OPTIONS,
        attr(TCA_TBF_PARMS, params),
        attr_u64(TCA_TBF_RATE64, rate8),
        attr_u32(TCA_TBF_BURST, burst),
    )
    return Message(RTM_NEWQDISC, body, NLM_F_CREATE, what)


TBF_HANDLE = 0x10000


def tbf_rate(found: Tc) -> int:
    """The rate of a token bucket read back, bits per second."""
    a = parse_attrs(found.options)
    if TCA_TBF_RATE64 in a:
        return 8 * u64(a[TCA_TBF_RATE64])
    return 8 * u32(a[TCA_TBF_PARMS][8:12])


def del_root_qdisc(index: int, what: str) -> Message:
    return Message(RTM_DELQDISC, _tc(index, 0, TC_H_ROOT), 0, what)
