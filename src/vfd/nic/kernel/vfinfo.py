"""``IFLA_VFINFO_LIST`` on the wire: what the kernel tells of a PF's VFs, and takes for them.

Layouts and numbers are those of ``include/uapi/linux/if_link.h``. One RTM_GETLINK tells all VFs of
a PF, one RTM_SETLINK sets them, in the message's order (net/core/rtnetlink.c, do_setvfinfo).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from vfd.nic.netlink import Attrs, attr, attr_u32, nest, parse_attrs
from vfd.policy.addresses import mac_bytes, mac_text
from vfd.policy.values import C_TAG

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFLA_IFNAME, IFLA_MTU, IFLA_NUM_VF = 3, 4, 21
IFLA_VFINFO_LIST, IFLA_STATS64, IFLA_EXT_MASK = 22, 23, 29
RTEXT_FILTER_VF, RTEXT_FILTER_SKIP_STATS = 1, 8
UNKNOWN = 0xFFFFFFFF
"""What the kernel reports for spoof check and trust where the driver says nothing."""

LINK_OFF = 2
"""IFLA_VF_LINK_STATE_DISABLE."""

NO_MAC = "00:00:00:00:00:00"
"""A VF's MAC where none is forced, and none was chosen."""

_LONGEST_LIST = 0xFFFF - 4
"""Bytes of entries in one IFLA_VFINFO_LIST, whose length has 16 bits."""
_VF_INFO, _VF_VLAN_INFO = 1, 1
_MAC, _VLAN, _SPOOFCHK, _LINK_STATE, _RATE, _STATS, _TRUST, _VLAN_LIST = 1, 2, 4, 5, 6, 8, 9, 12
_IFINFO = struct.Struct("=BxHiII")
_VF_MAC = struct.Struct("=I32s")
_TWO, _THREE = struct.Struct("=II"), struct.Struct("=III")
_TAGGED = struct.Struct("=III2s2x")
_U64 = struct.Struct("=Q")
_STAT_NUMBERS = {
    "rx_packets": 0,
    "tx_packets": 1,
    "rx_bytes": 2,
    "tx_bytes": 3,
    "rx_dropped": 7,
    "tx_dropped": 8,
}
VF_COUNTERS = frozenset(_STAT_NUMBERS)
_STATS64 = (
    "rx_packets", "tx_packets", "rx_bytes", "tx_bytes",
    "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VfSettings:
    """One VF's settings in rtnetlink's own terms. None: the driver has no such operation."""

    mac: str | None = None
    """To set: None leaves it as it is, the guest's own choice."""
    vlan: int = 0
    qos: int = 0
    tpid: int = C_TAG
    spoofchk: bool | None = None
    trust: bool | None = None
    max_tx_mbps: int = 0
    min_tx_mbps: int = 0
    link_state: int | None = None


class Step(NamedTuple):
    """One entry of a message: a VF goes from one setting to the other."""

    vfid: int
    before: VfSettings
    after: VfSettings


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A netdev as RTM_NEWLINK shows it."""

    index: int
    flags: int
    name: str
    mtu: int
    num_vfs: int
    """How many VFs there are, whether or not all of them fit the answer."""
    vfs: Mapping[int, VfSettings]
    """Where the request asked for them."""
    vf_counters: Mapping[int, Mapping[str, int]]
    counters: Mapping[str, int]
    torn: bool = False
    """The VFs outgrew the 65535 bytes that an attribute may have, and the kernel sent a length that
    is too short: nothing is known of them. With statistics that is so beyond some 220 VFs."""


def request(index: int, *, vfs: bool = True, stats: bool = False) -> bytes:
    """RTM_GETLINK of one netdev, with its VFs and their statistics."""
    mask = (RTEXT_FILTER_VF if vfs else 0) | (0 if stats else RTEXT_FILTER_SKIP_STATS)
    return _IFINFO.pack(0, 0, index, 0, 0) + attr_u32(IFLA_EXT_MASK, mask)


def link_head(body: bytes) -> tuple[int, str, int]:
    """(ifindex, name, flags) of an RTM_NEWLINK or RTM_DELLINK. The name is that of its folder in
    sysfs, whatever its bytes."""
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    name = parse_attrs(body, _IFINFO.size).get(IFLA_IFNAME, b"")
    return index, os.fsdecode(name.rstrip(b"\0")), flags


def parse_link(body: bytes) -> LinkInfo:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    attrs, torn = _up_to_vfs(body)
    vfs: dict[int, VfSettings] = {}
    vf_counters: dict[int, Mapping[str, int]] = {}
    for raw in _repeated(attrs.get(IFLA_VFINFO_LIST, b""), _VF_INFO):
        vfid, settings, counted = _vf(raw)
        vfs[vfid] = settings
        if counted is not None:
            vf_counters[vfid] = counted
    values = struct.unpack_from("=8Q", attrs[IFLA_STATS64]) if IFLA_STATS64 in attrs else ()
    return LinkInfo(
        index=index,
        flags=flags,
        name=os.fsdecode(attrs.get(IFLA_IFNAME, b"").rstrip(b"\0")),
        mtu=int.from_bytes(attrs.get(IFLA_MTU, b"")[:4], "little"),
        num_vfs=int.from_bytes(attrs.get(IFLA_NUM_VF, b"")[:4], "little"),
        vfs=vfs,
        vf_counters=vf_counters,
        counters=dict(zip(_STATS64, values, strict=False)),
        torn=torn,
    )


@lru_cache(maxsize=1024)  # most VFs show what they did when they were read last
def _vf(raw: bytes) -> tuple[int, VfSettings, Mapping[str, int] | None]:
    """A VF's number, settings, and counters where they are told."""
    info = parse_attrs(raw)
    vfid = _TWO.unpack_from(info[_SPOOFCHK])[0] if _SPOOFCHK in info else _vfid(info)
    if _STATS not in info:
        return vfid, _settings(info), None
    stats = parse_attrs(info[_STATS])
    counted = {
        name: _U64.unpack_from(stats[number])[0]
        for name, number in _STAT_NUMBERS.items()
        if number in stats
    }
    return vfid, _settings(info), counted


def _up_to_vfs(body: bytes) -> tuple[Attrs, bool]:
    """The attributes up to the list of VFs, which is the last of those that are read here
    (net/core/rtnetlink.c, rtnl_fill_ifinfo), and whether that one is torn: then it is left out."""
    found: Attrs = {}
    offset = _IFINFO.size
    while offset + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, offset)
        end = offset + size
        if kind & 0x3FFF == IFLA_VFINFO_LIST:
            # What follows it is short: if there is more, it is of the list.
            if size < 4 or len(body) - end > 0xFFFF:
                return found, True
            found[IFLA_VFINFO_LIST] = body[offset + 4 : end]
            return found, False
        if size < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : end]
        offset = (end + 3) & ~3
    return found, False


def set_link(index: int, *, flags: int = 0, change: int = 0, mtu: int | None = None) -> bytes:
    """RTM_SETLINK of the netdev itself."""
    body = _IFINFO.pack(0, 0, index, flags, change)
    return body if mtu is None else body + attr_u32(IFLA_MTU, mtu)


def set_vfs(index: int, steps: Iterable[Step]) -> tuple[bytes, ...]:
    """RTM_SETLINK that makes the steps in their order; only what differs is sent. Several messages
    where one would be too long, none where nothing differs."""
    lists: list[bytearray] = []
    for step in steps:
        if differing := _differing(*step):
            entry = nest(_VF_INFO, *differing)
            if not lists or len(lists[-1]) + len(entry) > _LONGEST_LIST:
                lists.append(bytearray())
            lists[-1] += entry
    head = _IFINFO.pack(0, 0, index, 0, 0)
    return tuple(head + nest(IFLA_VFINFO_LIST, bytes(entries)) for entries in lists)


def _differing(vfid: int, before: VfSettings, after: VfSettings) -> list[bytes]:
    found = []
    if after.mac is not None and before.mac != after.mac:
        found.append(attr(_MAC, _VF_MAC.pack(vfid, mac_bytes(after.mac))))
    if (before.vlan, before.qos, before.tpid) != (after.vlan, after.qos, after.tpid):
        # IFLA_VF_VLAN carries no TPID; drivers without 802.1ad are given what they know.
        if after.tpid == C_TAG:
            found.append(attr(_VLAN, _THREE.pack(vfid, after.vlan, after.qos)))
        else:
            tpid = after.tpid.to_bytes(2, "big")
            tagged = attr(_VF_VLAN_INFO, _TAGGED.pack(vfid, after.vlan, after.qos, tpid))
            found.append(nest(_VLAN_LIST, tagged))
    rates = after.min_tx_mbps, after.max_tx_mbps
    if (before.min_tx_mbps, before.max_tx_mbps) != rates:
        found.append(attr(_RATE, _THREE.pack(vfid, *rates)))
    for kind, name in ((_SPOOFCHK, "spoofchk"), (_LINK_STATE, "link_state"), (_TRUST, "trust")):
        value = getattr(after, name)
        if value is not None and getattr(before, name) != value:
            found.append(attr(kind, _TWO.pack(vfid, int(value))))
    return found


def _settings(info: Mapping[int, bytes]) -> VfSettings:
    _, vlan, qos = _THREE.unpack_from(info[_VLAN]) if _VLAN in info else (0, 0, 0)
    _, low, high = _THREE.unpack_from(info[_RATE]) if _RATE in info else (0, 0, 0)
    return VfSettings(
        mac=mac_text(info[_MAC][4:10]) if _MAC in info else None,
        vlan=vlan,
        qos=qos,
        tpid=_tpid(info) if vlan else C_TAG,
        spoofchk=_flag(info, _SPOOFCHK),
        trust=_flag(info, _TRUST),
        max_tx_mbps=high,
        min_tx_mbps=low,
        link_state=_TWO.unpack_from(info[_LINK_STATE])[1] if _LINK_STATE in info else None,
    )


def _vfid(info: Mapping[int, bytes]) -> int:
    return int.from_bytes(info[_MAC][:4], "little")


def _flag(info: Mapping[int, bytes], kind: int) -> bool | None:
    value = _TWO.unpack_from(info[kind])[1] if kind in info else UNKNOWN
    return None if value == UNKNOWN else bool(value)


def _tpid(info: Mapping[int, bytes]) -> int:
    """Of the VF's port VLAN, from IFLA_VF_VLAN_LIST."""
    for raw in _repeated(info.get(_VLAN_LIST, b""), _VF_VLAN_INFO):
        return int.from_bytes(_TAGGED.unpack_from(raw)[3], "big")
    return C_TAG


def _repeated(data: bytes, kind: int) -> Iterator[bytes]:
    """Every attribute of a list whose members all have one number."""
    offset = 0
    while offset + 4 <= len(data):
        size, found = struct.unpack_from("=HH", data, offset)
        if size < 4:
            return
        if found & 0x3FFF == kind:
            yield data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
