"""The netdev that becomes a soft NIC's wire: who uses it, and what is given back of it.

A NIC takes whatever comes in by its wire before the host's own stack sees it, and most take the
netdev out of the host's namespace: addresses and routes would be gone. So a netdev that somebody
uses is refused, with nothing touched. What taking it changes beside that (up or down, flags, how
IPv6 makes its address) is written into its alias, which goes with it from namespace to namespace
and outlives daemons; whoever releases it reads it there.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.addresses import SCOPE_LINK, addresses
from vfd.nic.netlink import (
    Attrs,
    Message,
    Netlink,
    NetlinkError,
    attr_u8,
    nest,
    parse_attrs,
    u32,
)
from vfd.nic.netlink import text as text_of
from vfd.nic.soft import rtnl
from vfd.nic.soft.rtnl import IFF_NOARP, IFF_PROMISC, IFF_UP, Link

_IFINFO = struct.Struct("=BxHiII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTM_GETROUTE, _RTA_OIF, _RTA_MULTIPATH = 26, 4, 9
_RTN_UNICAST, _RTPROT_KERNEL = 1, 2
_IFLA_NETNS_IMMUTABLE = 67
_ARPHRD_ETHER = 1
_SWITCHES = {"bridge": "a bridge", "openvswitch": "a switch of Open vSwitch"}
_HELD = {"bond", "team"}
"""Kinds that older kernels keep in their namespace without saying so (NETIF_F_NETNS_LOCAL)."""
_LONGEST_ALIAS = 255
"""IFALIASZ - 1, linux/include/uapi/linux/if.h."""
_NOTED = re.compile(r"vfd wire of (\S+): was (up|down)((?:,[a-z0-9=]+)*)(?:; (.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Before:
    """What taking a netdev changes, as it was. ``mode``: IN6_ADDR_GEN_MODE_*; None: no IPv6."""

    flags: int
    mode: int | None
    alias: str

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


def objection(netlink: Netlink, link: Link, name: str, *, moves: bool) -> str | None:
    """Why a netdev of the socket's namespace is no wire, and what to do; None: it may be taken.
    ``name``: by which it was found. ``moves``: it has to leave the namespace. Raises OSError."""
    if link.name != name:
        return f"is another name of {link.name}: write {link.name}, which notifications call it"
    kind, attrs = _look(netlink, link)
    if kind != _ARPHRD_ETHER:
        return "is no Ethernet device: name one that is"
    if link.kind in _SWITCHES:
        return (
            f"is {_SWITCHES[link.kind]}, which no frame leaves by: name a netdev that has a cable,"
            " or one end of a veth pair whose other end is a port of it"
        )
    if link.master is not None:
        above = rtnl.link(netlink, index=link.master)
        name = above.name if above else f"index {link.master}"
        kinds = f" ({above.kind})" if above and above.kind else ""
        return (
            f"belongs to {name}{kinds}: take it out (`ip link set {link.name} nomaster`; of Open"
            " vSwitch `ovs-vsctl del-port`), or name another netdev"
        )
    if (Path("/sys/class/net") / link.name / "phy80211").exists():
        return "is wireless: an access point takes frames of one MAC alone"
    users = [*_devices(netlink, link), *_addresses(netlink, link), *_routes(netlink, link)]
    if users:
        return (
            f"is in use by this host, which would lose it: it has {', '.join(users)}. Move them to"
            f" another netdev, or take them away (`ip addr flush dev {link.name}`), and keep"
            " network managers from it"
        )
    hooks = [q.kind for q in rtnl.qdiscs(netlink, link.index) if q.handle == rtnl.CLSACT_HANDLE]
    if hooks:
        return (
            "has filters of another program, which a NIC would take away:"
            f" `tc qdisc show dev {link.name}`"
        )
    immutable = attrs.get(_IFLA_NETNS_IMMUTABLE, b"\0")[0]
    if moves and (link.kind in _HELD or immutable):
        return HELD_THERE
    return None


HELD_THERE = (
    "can't leave the host's namespace (the kernel holds it there), which a NIC with veth guests"
    ' needs: name another netdev, or set "guest": "tap"'
)


def _look(netlink: Netlink, link: Link) -> tuple[int, Attrs]:
    """A netdev's hardware type (ARPHRD_*) and its attributes."""
    body = _IFINFO.pack(0, 0, link.index, 0, 0)
    answer = netlink.get(rtnl.RTM_GETLINK, body, f"looking at {link.name}")
    return int(_IFINFO.unpack_from(answer)[1]), parse_attrs(answer, _IFINFO.size)


def _devices(netlink: Netlink, link: Link) -> Iterator[str]:
    """Devices above it: VLANs, macvlans."""
    for other in rtnl.links(netlink):
        if other.link == link.index and other.link_nsid is None and other.kind not in ("", "veth"):
            yield f"the {other.kind} {other.name} above it"


def _addresses(netlink: Netlink, link: Link) -> Iterator[str]:
    """Its addresses, but for those that IPv6 makes of its MAC by itself."""
    for address in addresses(netlink, link.index):
        if not (address.family == rtnl.AF_INET6 and address.scope == SCOPE_LINK):
            yield address.text


def _routes(netlink: Netlink, link: Link) -> Iterator[str]:
    """Whether routes lead over it that somebody made."""
    leads = default = False
    for family in (rtnl.AF_INET, rtnl.AF_INET6):
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for _, raw in netlink.dump(_RTM_GETROUTE, body, "listing routes"):
            _, length, _, _, _, protocol, _, kind, _ = _RTMSG.unpack_from(raw)
            found = parse_attrs(raw, _RTMSG.size)
            over = {u32(found[_RTA_OIF])} if _RTA_OIF in found else _hops(found)
            if link.index in over and kind == _RTN_UNICAST and protocol != _RTPROT_KERNEL:
                leads, default = True, default or not length
    if default:
        yield "the default route"
    elif leads:
        yield "routes"


def _hops(found: Attrs) -> set[int]:
    """The netdevs of a route's several next hops (``struct rtnexthop``)."""
    raw, hops = found.get(_RTA_MULTIPATH, b""), set()
    while len(raw) >= 8:
        length, _, _, index = struct.unpack_from("=HBBi", raw)
        hops.add(index)
        raw = raw[max(8, (length + 3) & ~3) :]
    return hops


# -- What is given back -----------------------------------------------------------------------


def note(netlink: Netlink, link: Link, nic_id: str) -> str | None:
    """The alias that makes a netdev remember how it was; None where it does already."""
    _, attrs = _look(netlink, link)
    alias = text_of(attrs.get(rtnl.IFLA_IFALIAS, b""))
    if _NOTED.fullmatch(alias):
        return None
    words = ["up" if link.up else "down"]
    words += [word for word, bit in _FLAGS.items() if link.flags & bit]
    if (mode := _mode(attrs)) is not None:
        words.append(f"ipv6={mode}")
    noted = f"vfd wire of {nic_id}: was {','.join(words)}"
    if alias and len(noted.encode()) + 2 + len(alias.encode()) <= _LONGEST_ALIAS:
        noted += f"; {alias}"
    return noted


_FLAGS = {"noarp": IFF_NOARP, "promisc": IFF_PROMISC}


def _mode(attrs: Attrs) -> int | None:
    spec = parse_attrs(attrs.get(rtnl.IFLA_AF_SPEC, b""))
    inet6 = parse_attrs(spec.get(rtnl.AF_INET6, b""))
    return (
        inet6[rtnl.IFLA_INET6_ADDR_GEN_MODE][0] if rtnl.IFLA_INET6_ADDR_GEN_MODE in inet6 else None
    )


def before(netlink: Netlink, link: Link) -> Before:
    """How a netdev was before it was taken; one that doesn't say so was down, or is gone."""
    try:
        _, attrs = _look(netlink, link)
    except NetlinkError as e:
        if e.errno != errno.ENODEV:
            raise
        attrs = {}
    alias = text_of(attrs.get(rtnl.IFLA_IFALIAS, b""))
    found = _NOTED.fullmatch(alias)
    if found is None:
        return Before(0, None, alias)
    words = found[3].split(",")
    flags = sum(bit for word, bit in _FLAGS.items() if word in words)
    modes = [int(word[5:]) for word in words if word.startswith("ipv6=") and word[5:].isdigit()]
    up = IFF_UP if found[2] == "up" else 0
    return Before(flags | up, modes[0] if modes else None, found[4] or "")


def as_before(index: int, name: str, was: Before) -> list[Message]:
    """What makes a netdev in the daemon's namespace what it was."""
    messages = []
    what = f"giving {name} back as it was"
    if was.mode is not None:
        inet6 = nest(rtnl.AF_INET6, attr_u8(rtnl.IFLA_INET6_ADDR_GEN_MODE, was.mode))
        body = _IFINFO.pack(0, 0, index, 0, 0) + nest(rtnl.IFLA_AF_SPEC, inet6)
        messages.append(Message(rtnl.RTM_SETLINK, body, 0, what))
    mask = IFF_UP | IFF_NOARP | IFF_PROMISC
    back = rtnl.set_link(index, what=what, flags=was.flags, flags_mask=mask, alias=was.alias)
    return [*messages, back]


def take(index: int, name: str, noted: str | None, namespace: int, new_index: int) -> Message:
    """Moves a netdev, with what is noted of it: a kill leaves both or neither."""
    what = f"taking the uplink {name}"
    return rtnl.set_link(index, what=what, alias=noted, namespace=namespace, new_index=new_index)


def noting(index: int, name: str, noted: str | None) -> list[Message]:
    """The same for one that stays where it is."""
    if noted is None:
        return []
    return [rtnl.set_link(index, what=f"taking the uplink {name}", alias=noted)]
