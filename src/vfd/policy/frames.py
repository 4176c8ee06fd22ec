"""An Ethernet frame as bytes, and as its fields: addresses, VLAN tags, the rest.

Frames have no preamble and no FCS. A VLAN tag is one of IEEE 802.1Q-2018, clause 9, with TPID
0x8100 or 0x88a8; any other type (0x9100 among them) is an ordinary EtherType.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfd.policy.addresses import mac_bytes, mac_text
from vfd.policy.values import C_TAG, S_TAG

MAC_CONTROL = 0x8808
"""EtherType of MAC control frames, PAUSE and PFC among them: IEEE 802.3-2018, 31.4."""

ETHER_LEN = 14
"""Bytes of an Ethernet header: two addresses and a type."""
TAG_LEN = 4
"""Bytes of a VLAN tag: TPID and TCI."""

_TPIDS = (C_TAG, S_TAG)
_TYPE_LEN = 2


class TruncatedError(ValueError):
    """The frame ends within its Ethernet header or within its outer tag."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A VLAN tag. ``vid`` 0 … 4095, ``pcp`` 0 … 7."""

    tpid: int
    vid: int
    pcp: int = 0
    dei: bool = False

    @property
    def is_priority(self) -> bool:
        """A priority tag names no VLAN (IEEE 802.1Q-2018, 3.184: its VID is 0)."""
        return self.vid == 0

    def __bytes__(self) -> bytes:
        tci = self.pcp << 13 | self.dei << 12 | self.vid
        return self.tpid.to_bytes(2, "big") + tci.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame's fields; ``bytes(frame)`` is the frame."""

    dst: str
    src: str
    tags: tuple[Tag, ...]
    """Outer first. A tag that the frame cuts off counts as ``rest``."""
    rest: bytes
    """The EtherType and all that follows it."""

    @property
    def outer(self) -> Tag | None:
        return self.tags[0] if self.tags else None

    @property
    def is_veiled(self) -> bool:
        """Whether a tag stands behind a priority tag: receivers skip the first and act on the
        second. One that is cut off counts, because whoever pads the frame completes it."""
        if self.outer is None or not self.outer.is_priority:
            return False
        return len(self.tags) > 1 or self.type in _TPIDS

    @property
    def type(self) -> int:
        """The EtherType behind all tags, or a length (IEEE 802.3-2018, 3.2.6)."""
        return _number(self.rest, 0)

    def push(self, tag: Tag) -> Frame:
        """The frame with ``tag`` outside its other tags."""
        return replace(self, tags=(tag, *self.tags))

    def pop(self) -> Frame:
        """The frame without its outer tag; a frame without tags as it is."""
        return replace(self, tags=self.tags[1:])

    def __bytes__(self) -> bytes:
        tags = b"".join(bytes(tag) for tag in self.tags)
        return mac_bytes(self.dst) + mac_bytes(self.src) + tags + self.rest


def parse(raw: bytes) -> Frame:
    """The fields of a frame; ``bytes(parse(raw)) == raw``.

    Raises TruncatedError where the frame ends within its Ethernet header, or where its first
    type is a TPID and the TCI or the type after it is missing. What is cut off behind the outer
    tag is the guest's own affair: it is payload.
    """
    if len(raw) < ETHER_LEN:
        raise TruncatedError(f"{len(raw)} bytes are no Ethernet header: it has {ETHER_LEN}")
    tags: list[Tag] = []
    at = ETHER_LEN - _TYPE_LEN
    while (tpid := _number(raw, at)) in _TPIDS and len(raw) >= at + TAG_LEN + _TYPE_LEN:
        tci = _number(raw, at + 2)
        tags.append(Tag(tpid, vid=tci & 0xFFF, pcp=tci >> 13, dei=bool(tci & 0x1000)))
        at += TAG_LEN
    if not tags and tpid in _TPIDS:
        raise TruncatedError(f"the frame's tag {tpid:#06x} is cut off after {len(raw)} bytes")
    return Frame(mac_text(raw[:6]), mac_text(raw[6:12]), tuple(tags), raw[at:])


def _number(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "big")
