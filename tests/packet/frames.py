"""Frames as cases write them: addresses, tags, a kind of payload; bytes only when sent.

Every frame that is sent ends in eight bytes of its own, the marker, so that a frame seen at any
port at any later time is known for what it is, whatever tags it has gained or lost.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from vfd.policy.addresses import BROADCAST, mac_bytes
from vfd.policy.values import C_TAG, S_TAG

MARKER_LENGTH = 8

WORLD = "02:77:00:00:00:01"
"""A station beyond the wire."""
STRANGER = "02:66:00:00:00:01"
"""A MAC that no VF owns."""
GROUP = "01:00:5e:00:00:42"
"""An IPv4 multicast group's address, RFC 1112: that of 224.0.0.66, a link-local one, which a
guest's kernel joins without sending IGMP reports (net.ipv4.igmp_link_local_mcast_reports)."""
GROUP6 = "33:33:00:00:12:34"
"""An IPv6 multicast group's address, RFC 2464."""
LLDP_GROUP = "01:80:c2:00:00:0e"
"""Reserved by IEEE 802.1Q table 8-1: a bridge would not forward it; a VEB's policy decides."""
ALL = BROADCAST

PAUSE_GROUP = "01:80:c2:00:00:01"
"""Where PAUSE and PFC are sent: IEEE 802.3, annex 31B. A forger may name any other."""
IPV4, IPV6, ARP, LLDP, EXPERIMENT, MAC_CONTROL = 0x0800, 0x86DD, 0x0806, 0x88CC, 0x88B5, 0x8808


def mac(vfid: int) -> str:
    """The MAC that cases give to VF ``vfid``."""
    return f"02:00:00:00:00:{vfid + 0x10:02x}"


def own(vfid: int) -> str:
    """Stands for the MAC that the NIC itself gave to the VF; the bench knows it."""
    return f"own:{vfid}"


@dataclass(frozen=True, slots=True)
class Tag:
    vid: int
    tpid: int = C_TAG
    pcp: int = 0
    dei: int = 0

    def __bytes__(self) -> bytes:
        return struct.pack("!HH", self.tpid, self.pcp << 13 | self.dei << 12 | self.vid)

    def __str__(self) -> str:
        kind = {C_TAG: "C", S_TAG: "S"}.get(self.tpid, f"{self.tpid:#06x}:")
        return f"{kind}{self.vid}" + (f"/{self.pcp}.{self.dei}" if self.pcp or self.dei else "")


def c(vid: int, pcp: int = 0, dei: int = 0) -> Tag:
    """A customer tag."""
    return Tag(vid, C_TAG, pcp, dei)


def s(vid: int, pcp: int = 0, dei: int = 0) -> Tag:
    """A service tag."""
    return Tag(vid, S_TAG, pcp, dei)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame without its marker. ``payload``: bytes after the last EtherType, marker included."""

    dst: str
    src: str
    tags: tuple[Tag, ...] = ()
    kind: int = EXPERIMENT
    payload: int = 64

    def tagged(self, *tags: Tag) -> Frame:
        """The same frame with these tags instead of its own, outermost first."""
        return replace(self, tags=tags)

    def with_marker(self, marker: bytes, own_mac: dict[int, str]) -> bytes:
        """The frame's bytes. ``own_mac``: what ``own(vfid)`` stands for."""
        head = _address(self.dst, own_mac) + _address(self.src, own_mac)
        tags = b"".join(map(bytes, self.tags))
        body = _BODIES.get(self.kind, _zeros)(self.payload)
        return head + tags + struct.pack("!H", self.kind) + body[:-MARKER_LENGTH] + marker

    def __str__(self) -> str:
        tags = "".join(f" [{tag}]" for tag in self.tags)
        return f"{self.src} → {self.dst}{tags} {self.kind:#06x} {self.payload} B"


def frame(dst: str, src: str, *tags: Tag, kind: int = EXPERIMENT, payload: int = 64) -> Frame:
    return Frame(dst, src, tags, kind, payload)


def from_vf(vfid: int, dst: str, *tags: Tag, kind: int = EXPERIMENT, payload: int = 64) -> Frame:
    """A frame with the MAC that cases give to the VF as its source."""
    return Frame(dst, mac(vfid), tags, kind, payload)


def marker_of(raw: bytes) -> bytes:
    return raw[-MARKER_LENGTH:]


def tag_count(raw: bytes) -> int:
    """How many tags stand before the frame's EtherType."""
    at = 12
    while raw[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return (at - 12) // 4


def describe(raw: bytes) -> str:
    """A frame for a failure's message."""
    depth = tag_count(raw)
    tags = "".join(
        f" [{Tag(tci & 0xFFF, tpid, tci >> 13, tci >> 12 & 1)}]"
        for tpid, tci in struct.iter_unpack("!HH", raw[12 : 12 + 4 * depth])
    )
    return f"{raw[6:12].hex(':')} → {raw[:6].hex(':')}{tags} ({len(raw)} B)"


def _address(text: str, own_mac: dict[int, str]) -> bytes:
    if text.startswith("own:"):
        text = own_mac[int(text.removeprefix("own:"))]
    return mac_bytes(text)


def _zeros(length: int) -> bytes:
    return bytes(length)


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4(length: int) -> bytes:
    """IPv4 with UDP to the discard port, between documentation addresses (RFC 5737)."""
    addresses = bytes((192, 0, 2, 1, 192, 0, 2, 2))
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, 17, 0) + addresses
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return head + struct.pack("!HHHH", 9, 9, length - 20, 0) + bytes(length - 28)


def _ipv6(length: int) -> bytes:
    """IPv6 with no next header (RFC 8200, 4.7), between documentation addresses (RFC 3849)."""
    source, destination = (bytes.fromhex("20010db8") + bytes(11) + bytes((n,)) for n in (1, 2))
    return (
        struct.pack("!IHBB", 6 << 28, length - 40, 59, 64)
        + source
        + destination
        + bytes(length - 40)
    )


def _arp(length: int) -> bytes:
    """Who has 192.0.2.2? Tell 192.0.2.1 (RFC 826), padded."""
    fixed = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1)
    body = mac_bytes(WORLD) + bytes((192, 0, 2, 1)) + bytes(6) + bytes((192, 0, 2, 2))
    return (fixed + body).ljust(length, b"\0")


_BODIES = {IPV4: _ipv4, IPV6: _ipv6, ARP: _arp}
