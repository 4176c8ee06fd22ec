"""The kernel's side of a request about a PF's netdev and its VFs, in place of the netlink socket.

Written from the kernel's net/core/rtnetlink.c (6.12): ``do_setlink`` takes the entries of
IFLA_VFINFO_LIST in the message's order, ``do_setvfinfo`` the attributes of an entry in an order of
its own, each is one call of the PF driver, and the first that the driver refuses ends the message.
What the driver does with a call is a ``VfOperations``.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vfd.nic.netlink import Message, Netlink, NetlinkError, attr, attr_text, attr_u32, nest

_SETLINK, _GETLINK, _GETADDR, _GETROUTE = 19, 18, 22, 26
_IFNAME, _MTU, _NUM_VF, _VFINFO_LIST, _STATS64, _EXT_MASK = 3, 4, 21, 22, 23, 29
_VFS, _SKIP_STATS = 1, 8
_AF_SPEC, _BRIDGE_MODE, _AF_BRIDGE = 26, 1, 7
_HWMODES = ("veb", "vepa")
"""By their numbers: BRIDGE_MODE_*, linux/if_bridge.h."""
_HEAD = struct.Struct("=BxHiII")
_NO_MAC = "00:00:00:00:00:00"
_PROTOS = {b"\x81\x00": "802.1Q", b"\x88\xa8": "802.1ad"}
_STATS = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "broadcast", "multicast")
MOST = 0xFFFF
"""Bytes of one attribute."""


@dataclass(slots=True)
class VfSeen:
    """One VF as ``ndo_get_vf_config`` shows it."""

    mac: str = _NO_MAC
    vlan: int = 0
    qos: int = 0
    proto: str = "802.1Q"
    spoofchk: bool | None = True
    trust: bool | None = False
    """Of both, None: the driver leaves ``ifla_vf_info`` as the kernel made it, which is -1."""
    link_state: int = 0
    minimum: int = 0
    maximum: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    readings_in_reset: int = 0
    """How often ``ndo_get_vf_config`` fails yet: ``rtnl_fill_vfinfo`` passes over the VF."""


class VfOperations(Protocol):
    """A PF driver's ``ndo_set_vf_*`` and ``ndo_get_vf_*``."""

    def vfs(self) -> Sequence[VfSeen]: ...

    def call(self, vfid: int, *words: str) -> None:
        """One operation, in the words of ``ip link set PF vf N``. Raises OSError."""
        ...


@dataclass(slots=True)
class PlainVfs:
    """A driver that takes everything and keeps it.

    ``refuses``: calls that fail. ``breaks``: by VF, the call from which on it refuses all.
    ``spoils``: what is done in place of a call, () for nothing. Of what is refused or spoiled the
    words of the call are given, or the first of them.
    """

    seen: list[VfSeen]
    refuses: dict[tuple[str, ...], int] = field(default_factory=dict)
    breaks: dict[int, tuple[str, ...]] = field(default_factory=dict)
    spoils: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    calls: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    def vfs(self) -> Sequence[VfSeen]:
        return self.seen

    def call(self, vfid: int, *words: str) -> None:
        self.calls.append((vfid, words))
        if number := self.refuses.get(words, self.refuses.get(words[:1], 0)):
            raise OSError(number, errno.errorcode[number])
        if self.breaks.get(vfid) in (words, ()):
            self.breaks[vfid] = ()
            raise OSError(errno.EBUSY, "EBUSY")
        vf = self.seen[vfid]
        match self.spoils.get(words, self.spoils.get(words[:1], words)):
            case ("mac", mac):
                vf.mac = mac
            case ("vlan", vid, qos, proto):
                vf.vlan, vf.qos, vf.proto = int(vid), int(qos), proto
            case ("rate", minimum, maximum):
                vf.minimum, vf.maximum = int(minimum), int(maximum)
            case ("spoofchk", on):
                vf.spoofchk = on == "1"
            case ("trust", on):
                vf.trust = on == "1"
            case ("state", number_of):
                vf.link_state = int(number_of)


@dataclass(frozen=True, slots=True)
class ModelVfs:
    """The VFs of a vendor's model, mounted at ``root``: both ways in lead to the same device."""

    root: Path

    def vfs(self) -> Sequence[VfSeen]:
        state = json.loads((self.root / ".model/state").read_text())
        return [_intel(vf) if "macs" in vf else _mellanox(vf) for vf in state["vfs"]]

    def call(self, vfid: int, *words: str) -> None:
        (self.root / ".model/ip").write_text(" ".join((str(vfid), *words)))


def _intel(vf: Mapping[str, Any]) -> VfSeen:
    return VfSeen(
        mac=vf["mac"],
        vlan=vf["port_vlan"],
        spoofchk=vf["mac_anti_spoof"],
        trust=vf["trust"],
        link_state=("auto", "enable", "disable").index(vf["link"]),
        maximum=vf["max_tx_rate"],
        counters=vf["counters"],
    )


def _mellanox(vf: Mapping[str, Any]) -> VfSeen:
    """The 802.1ad of a port VLAN is in the ``config`` file only."""
    return VfSeen(
        mac=vf["mac"],
        vlan=vf["vlan"],
        qos=vf["qos"],
        spoofchk=vf["spoofcheck"],
        trust=vf["trust"],
        link_state=("Follow", "Up", "Down").index(vf["link_state"]),
        minimum=vf["min_tx_rate"],
        maximum=vf["max_tx_rate"],
        counters=vf["counters"],
    )


class PfNetdev(Netlink):
    """The socket, as the backend uses it for a PF's netdev."""

    def __init__(self, driver: VfOperations) -> None:
        self.driver = driver
        self.mtu = 1500
        self.hwmode = ""
        """How ``bridge link`` shows the NIC's own bridge; "": the driver has no such mode."""
        self.addresses: list[str] = []
        """The host's, on whatever netdev is asked about."""
        self.flags = 1
        self.index = 1
        self.messages = 0
        """RTM_SETLINKs so far."""
        self.portid = 0

    def close(self) -> None:
        pass

    def dump(self, kind: int, *_: object, **__: object) -> list[tuple[int, bytes]]:
        if kind == _GETLINK and self.hwmode:  # ndo_dflt_bridge_getlink
            mode = struct.pack("=H", _HWMODES.index(self.hwmode))
            head = _HEAD.pack(_AF_BRIDGE, 0, self.index, self.flags, 0)
            return [(16, head + nest(_AF_SPEC, attr(_BRIDGE_MODE, mode)))]
        if kind != _GETADDR:
            return []
        head = struct.pack("=BBBBi", 2, 24, 0, 0, self.index)
        return [(20, head + attr(2, socket.inet_aton(address))) for address in self.addresses]

    def get(self, kind: int, body: bytes, what: str = "") -> bytes:  # noqa: ARG002
        if kind == _GETROUTE:
            raise NetlinkError(errno.ENETUNREACH, Message(kind, body), "", 0)
        assert kind == _GETLINK
        index = self.index = _HEAD.unpack_from(body)[2]
        mask = dict(_attrs(body[_HEAD.size :]))[_EXT_MASK][0]
        vfs = self.driver.vfs()
        infos = b"".join(
            _info(n, vf, stats=not mask & _SKIP_STATS)
            for n, vf in enumerate(vfs)
            if vf.readings_in_reset == 0
        )
        for vf in vfs:
            vf.readings_in_reset = max(0, vf.readings_in_reset - 1)
        return b"".join(
            (
                _HEAD.pack(0, 0, index, self.flags, 0),
                attr_text(_IFNAME, "pf"),
                attr_u32(_MTU, self.mtu),
                attr(_STATS64, struct.pack("=8Q", *range(8))),
                attr_u32(_NUM_VF, len(vfs)) + _torn_if_too_long(infos) if mask & _VFS else b"",
            )
        )

    def send(self, messages: Sequence[Message]) -> None:
        failed = None
        for number, message in enumerate(messages):
            assert message.type == _SETLINK
            self.messages += 1
            try:
                self._set(message.body)
            except OSError as error:
                why = error.strerror or ""
                failed = failed or NetlinkError(error.errno or errno.EIO, message, why, number)
        if failed:
            raise failed

    def _set(self, body: bytes) -> None:
        family, _, _, flags, change = _HEAD.unpack_from(body)
        if family == _AF_BRIDGE:  # rtnl_bridge_setlink
            spec = dict(_attrs(dict(_attrs(body[_HEAD.size :]))[_AF_SPEC]))
            self.hwmode = _HWMODES[int.from_bytes(spec[_BRIDGE_MODE], "little")]
            return
        self.flags = self.flags & ~change | flags & change
        for kind, value in _attrs(body[_HEAD.size :]):
            if kind == _MTU:
                self.mtu = int.from_bytes(value, "little")
            elif kind == _VFINFO_LIST:
                for _, info in _attrs(value):
                    self._set_vf(dict(_attrs(info)))

    def _set_vf(self, info: Mapping[int, bytes]) -> None:
        """In the order of do_setvfinfo."""
        if value := info.get(1):
            vfid, mac = int.from_bytes(value[:4], "little"), value[4:10]
            self.driver.call(vfid, "mac", ":".join(f"{byte:02x}" for byte in mac))
        if value := info.get(2):
            vfid, vlan, qos = struct.unpack("=III", value)
            self.driver.call(vfid, "vlan", str(vlan), str(qos), "802.1Q")
        if value := info.get(12):
            vfid, vlan, qos, proto = struct.unpack("=III2s2x", dict(_attrs(value))[1])
            self.driver.call(vfid, "vlan", str(vlan), str(qos), _PROTOS[proto])
        if value := info.get(6):
            vfid, minimum, maximum = struct.unpack("=III", value)
            self.driver.call(vfid, "rate", str(minimum), str(maximum))
        for kind, word in ((4, "spoofchk"), (5, "state"), (9, "trust")):
            if value := info.get(kind):
                vfid, number = struct.unpack("=II", value)
                self.driver.call(vfid, word, str(number))


def _info(vfid: int, vf: VfSeen, *, stats: bool) -> bytes:
    """``rtnl_fill_vfinfo``."""
    proto = next(raw for raw, name in _PROTOS.items() if name == vf.proto)
    two, three = struct.Struct("=II"), struct.Struct("=III")
    parts = [
        attr(1, struct.pack("=I32s", vfid, bytes.fromhex(vf.mac.replace(":", "")))),
        attr(13, b"\xff" * 32),
        attr(2, three.pack(vfid, vf.vlan, vf.qos)),
        attr(6, three.pack(vfid, vf.minimum, vf.maximum)),
        attr(3, two.pack(vfid, vf.maximum)),
        attr(4, two.pack(vfid, _told(vf.spoofchk))),
        attr(5, two.pack(vfid, vf.link_state)),
        attr(7, two.pack(vfid, 0)),
        attr(9, two.pack(vfid, _told(vf.trust))),
        nest(12, attr(1, struct.pack("=III2s2x", vfid, vf.vlan, vf.qos, proto))),
    ]
    if stats:
        values = [vf.counters.get(name, 0) for name in (*_STATS, "rx_dropped", "tx_dropped")]
        kinds = (0, 1, 2, 3, 4, 5, 7, 8)
        each = (attr(k, struct.pack("=Q", v)) for k, v in zip(kinds, values, strict=True))
        parts.append(nest(8, *each))
    return nest(1, *parts)


def _told(value: bool | None) -> int:
    return 0xFFFFFFFF if value is None else value


def _torn_if_too_long(infos: bytes) -> bytes:
    """``nla_nest_end``: what is too long for an attribute is there, and its length has wrapped."""
    return struct.pack("=HH", (4 + len(infos)) & MOST, _VFINFO_LIST) + infos


def _attrs(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, offset)
        yield kind & 0x3FFF, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
