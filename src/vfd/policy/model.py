"""The reference model: docs/semantics.md, executable. (policies, port, frame) → frames by port.

Written to be read beside the contract, in its order and words; every backend that carries
packets is held against it. Knows no time: rates and storm limits only through ``limited``.

When each counter moves. Directions are the guest's; ``p`` is the number of packets on the wire
that the frame stands for, ``b`` their bytes (no FCS); see ``Gso``.

==================  ========================================================================
of a VF
``tx_packets``      p, ``tx_bytes`` b of the frame as the guest sent it: it passed Tx 1 … 6,
                    wherever the switch then takes it, nowhere included
``tx_errors``       p: the frame ends within its Ethernet header or its outer tag
``tx_dropped``      p: refused by Tx 1 … 6 for any other reason. The specific counters below are
                    part of it, so tx_packets + tx_errors + tx_dropped is all that was sent
``spoofed``         p: refused by Tx 2, 3, or 4 as tagged
``dropped_untagged``  p: refused by Tx 4 as untagged
``oversize``        p: refused by Tx 5
``rate_dropped``, ``storm_dropped``  p: refused by Tx 6 (drops by an Rx rate are not modelled)
``mirrored``        p for each copy of its frames that reached a mirror target
``rx_packets``      p, ``rx_bytes`` b of the frame as the guest is given it; of copies too
``rx_dropped``      p: a unicast frame to a MAC that the VF owns was refused by Rx 1 or 2
``dropped_vlan``    p: the part of rx_dropped that Rx 2 refused
of the wire
``rx_packets``      p, ``rx_bytes`` b of every frame that came in, taken by a VF or not
``rx_errors``       p: as a VF's tx_errors
``rx_dropped``      p: came in though the wire is down
``tx_packets``      p, ``tx_bytes`` b of every frame that left
``tx_dropped``      p: should have left, but the wire is down
==================  ========================================================================

A VF that a flooded frame passes by because its Rx rules refuse it counts nothing: a NIC doesn't
offer it the frame. docs/decisions.md says why, and decides what the contract leaves open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vfd.policy.addresses import BROADCAST, is_multicast, is_zero
from vfd.policy.frames import (
    ETHER_LEN,
    MAC_CONTROL,
    TAG_LEN,
    Frame,
    Tag,
    TruncatedError,
    parse,
)
from vfd.policy.requests import Grants, mtu_of, owners
from vfd.policy.values import S_TAG, Direction, LinkStatus, NicPolicy, VfPolicy

WIRE = -1
"""The wire's port number; a VF's is its vfid."""

RESERVED_VID = 4095
"""IEEE 802.1Q-2018, table 9-2: never sent in a tag."""

Refusal = Literal["spoofed", "dropped_untagged", "oversize", "rate_dropped", "storm_dropped"]
"""A counter that says why a guest's frame went no further."""


@dataclass(frozen=True, slots=True)
class Gso:
    """A segmentation-offload buffer: one frame that stands for several on the wire.

    Each segment repeats the frame's first ``header`` bytes (Ethernet to TCP or UDP, tags
    included, as sent) and carries up to ``size`` bytes of what follows.
    """

    size: int
    header: int

    def packets(self, length: int) -> int:
        """How many segments a buffer of ``length`` bytes is."""
        return max(1, -(-(length - self.header) // self.size))

    def longest(self, length: int) -> int:
        """The length of its longest segment."""
        return min(length, self.header + self.size)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a frame."""

    switched: tuple[tuple[int, bytes], ...]
    """(port, frame), as the switch delivered them; at most one a port, in port order."""
    copies: tuple[tuple[int, bytes], ...]
    """(VF, frame), what mirrors copied, in the order of the targets."""
    counters: Mapping[tuple[int, str], int]
    """(port, counter) → by how much it moved; absent: not at all."""

    @property
    def out(self) -> tuple[tuple[int, bytes], ...]:
        """All that leaves, by port and then by content."""
        return tuple(sorted(self.switched + self.copies))


class Model:
    """A NIC as docs/semantics.md describes it."""

    def __init__(
        self,
        nic: NicPolicy,
        grants: Mapping[int, Grants] | None = None,
        own_macs: Mapping[int, str] | None = None,
        wire_up: bool = True,
        *,
        has_wire: bool = True,
    ) -> None:
        """``nic`` is resolved; ``grants`` and ``own_macs`` (the NIC's own) are by vfid.

        ``has_wire`` False: a software NIC without an uplink. Its wire counts as up, and what
        goes to it is gone.
        """
        grants = grants or {}
        own_macs = own_macs or {}
        self.pf = nic.pf
        self.vfs: Mapping[int, VfPolicy] = dict(sorted(nic.by_vfid().items()))
        self.has_wire = has_wire
        self.wire_up = wire_up or not has_wire
        self.grants = {vfid: grants.get(vfid, Grants()) for vfid in self.vfs}
        self.owners = owners(nic, self.grants, own_macs)
        """MAC → VF."""

    def process(
        self,
        port: int,
        frame: bytes,
        *,
        gso: Gso | None = None,
        limited: Literal["rate_dropped", "storm_dropped"] | None = None,
    ) -> Verdict:
        """What becomes of ``frame``, which came in at ``port`` (a vfid, or WIRE).

        ``limited``: that Tx step 6 refuses the frame, and as what; None: it lets it pass.
        """
        passage = _Passage(frame, gso)
        if port == WIRE:
            self._from_wire(passage)
        else:
            self._from_guest(port, passage, limited)
        return passage.verdict()

    # -- From the guest: Tx, in this order --------------------------------------------------

    def _from_guest(self, vfid: int, passage: _Passage, limited: Refusal | None) -> None:
        vf = self.vfs.get(vfid)
        if vf is None or not self.link_up(vf):  # 1; a closed VF's link is down
            return passage.drop(vfid, "tx")
        try:
            frame = parse(passage.raw)
        except TruncatedError:
            return passage.count(vfid, "tx_errors")
        if is_multicast(frame.src) or is_zero(frame.src) or frame.type == MAC_CONTROL:  # 2
            return passage.drop(vfid, "tx", "spoofed")
        if vf.mac_anti_spoof and self.owners.get(frame.src) != vfid:  # 3
            return passage.drop(vfid, "tx", "spoofed")
        if refusal := self._refuses_tag(vf, frame):  # 4
            return passage.drop(vfid, "tx", refusal)
        if passage.payload(frame) > mtu_of(self.pf, vf, self.grants[vfid]):  # 5
            return passage.drop(vfid, "tx", "oversize")
        if limited:  # 6
            return passage.drop(vfid, "tx", limited)
        passage.carry(vfid, "tx", frame)
        frame = self._tag(vf, frame)  # what 4 found acceptable, done
        self._mirror(vf, frame, Direction.OUT, passage)  # 7
        self._switch_from_vf(vfid, frame, passage)  # 8
        return None

    def link_up(self, vf: VfPolicy) -> bool:
        """``on``: whatever the wire does; ``off``: down; ``auto``: follows the wire."""
        return vf.link_status is LinkStatus.ON or (
            vf.link_status is LinkStatus.AUTO and self.wire_up
        )

    # -- To the guest: Rx, in this order ----------------------------------------------------

    def _to_guest(self, vfid: int, frame: Frame, passage: _Passage) -> None:
        """Delivers a frame that Rx steps 1 … 3 let pass."""
        vf = self.vfs[vfid]
        self._mirror(vf, frame, Direction.IN, passage)  # 4
        passage.deliver(vfid, "rx", self._strip(vf, frame))  # 5

    def _passes_vlan_filter(self, vf: VfPolicy, frame: Frame) -> bool:
        """Rx step 2; also: whether the VF is in the frame's VLAN. A veiled tag is in none: behind
        a NIC's own tag, which has a VID, nothing is veiled."""
        outer = frame.outer
        if outer is None:
            return vf.allow_untagged
        if outer.tpid != vf.tpid(self.pf.tpid) or frame.is_veiled:
            return False
        return vf.allow_untagged if outer.is_priority else outer.vid in vf.vlans

    def _passes_class(self, vfid: int, dst: str) -> bool:
        """Rx step 3. Grants of promiscuous modes lie within these, so they add nothing."""
        vf = self.vfs[vfid]
        if dst == BROADCAST:
            return vf.allow_bcast
        if is_multicast(dst):
            return vf.allow_mcast or dst in self.grants[vfid].groups
        return self.owners.get(dst) == vfid or vf.allow_un_ucast

    # -- Tagging ----------------------------------------------------------------------------

    def _refuses_tag(self, vf: VfPolicy, frame: Frame) -> Refusal | None:
        """Why a guest may not send a frame with these tags; None: it may."""
        if vf.access_vid is not None:
            return _access_refuses_tag(vf, frame)
        outer = frame.outer
        if outer is not None and (outer.tpid != vf.tpid(self.pf.tpid) or frame.is_veiled):
            return "spoofed"
        if outer is None or outer.is_priority:
            return None if vf.allow_untagged else "dropped_untagged"
        if outer.vid == RESERVED_VID or (vf.vlan_anti_spoof and outer.vid not in vf.vlans):
            return "spoofed"
        return None

    def _tag(self, vf: VfPolicy, frame: Frame) -> Frame:
        """The frame as it goes on: with the NIC's tag in the access modes, else as it is.

        A priority tag is a tag without a VLAN: the NIC's tag takes its place, and its PCP and DEI.
        Any other frame gets the VF's ``pcp``.
        """
        if vf.access_vid is None:
            return frame
        tag = Tag(vf.tpid(self.pf.tpid), vf.access_vid, pcp=vf.pcp)
        if frame.outer is not None and frame.outer.is_priority:
            tag = Tag(tag.tpid, tag.vid, pcp=frame.outer.pcp, dei=frame.outer.dei)
            frame = frame.pop()
        return frame.push(tag)

    def _strip(self, vf: VfPolicy, frame: Frame) -> Frame:
        """What the guest is given: without the outer tag under either strip flag."""
        return frame.pop() if vf.strip_stag or vf.strip_ctag else frame

    # -- Switching --------------------------------------------------------------------------

    def _switch_from_vf(self, vfid: int, frame: Frame, passage: _Passage) -> None:
        if not self.pf.enable_loopback:
            return self._to_wire(frame, passage)
        owner = self.owner(frame)
        if owner is None:
            self._to_wire(frame, passage)
            self._flood(vfid, frame, passage)
        elif owner != vfid:  # never back to the port it came from
            self._offer(owner, frame, passage)
        return None

    def _from_wire(self, passage: _Passage) -> None:
        if not self.wire_up:
            return passage.drop(WIRE, "rx")
        try:
            frame = parse(passage.raw)
        except TruncatedError:
            return passage.count(WIRE, "rx_errors")
        passage.carry(WIRE, "rx", frame)
        if frame.type == MAC_CONTROL:  # they are between two ends of a cable
            return None
        owner = self.owner(frame)
        if owner is None:
            self._flood(WIRE, frame, passage)
        else:
            self._offer(owner, frame, passage)
        return None

    def owner(self, frame: Frame) -> int | None:
        """The static table: the VF that owns the destination in the frame's VLAN.

        None: the frame is BUM. Every MAC of a VF is in the table once for every VLAN of the VF,
        which is to say for every frame that its VLAN filter lets pass.
        """
        vfid = self.owners.get(frame.dst)
        if vfid is None or not self._passes_vlan_filter(self.vfs[vfid], frame):
            return None
        return vfid

    def _offer(self, vfid: int, frame: Frame, passage: _Passage) -> None:
        """Known unicast, which is in its owner's VLAN and class: Rx step 1 is left."""
        if not self.link_up(self.vfs[vfid]):
            return passage.drop(vfid, "rx")
        return self._to_guest(vfid, frame, passage)

    def _flood(self, came_from: int, frame: Frame, passage: _Passage) -> None:
        """BUM: to every VF that passes its Rx rules, but not back."""
        for vfid in self._takers(came_from, frame):
            self._to_guest(vfid, frame, passage)
        addressed = self.owners.get(frame.dst)
        if addressed is not None and addressed != came_from:  # in a VLAN that is not its own
            up = self.link_up(self.vfs[addressed])
            passage.drop(addressed, "rx", "dropped_vlan" if up else None)

    def _takers(self, came_from: int, frame: Frame) -> Iterator[int]:
        for vfid, vf in self.vfs.items():
            if (
                vfid != came_from
                and self.link_up(vf)
                and self._passes_vlan_filter(vf, frame)
                and self._passes_class(vfid, frame.dst)
            ):
                yield vfid

    def _to_wire(self, frame: Frame, passage: _Passage) -> None:
        if not self.has_wire:
            return None
        if not self.wire_up:
            return passage.drop(WIRE, "tx")
        return passage.deliver(WIRE, "tx", frame)

    def counts_as_storm(self, vfid: int, frame: bytes) -> bool:
        """Whether a frame that Tx steps 1 … 5 let pass counts against the VF's ``storm_limit``.

        Broadcast and multicast do; unknown unicast where the NIC could flood it to another VF.
        Without that it goes to the wire alone, as nearly all a guest says to the world does.
        """
        sent = self._tag(self.vfs[vfid], parse(frame))
        if is_multicast(sent.dst):
            return True
        flooded = self.pf.enable_loopback and any(
            vf.allow_un_ucast for other, vf in self.vfs.items() if other != vfid
        )
        return flooded and self.owner(sent) is None

    # -- Mirroring --------------------------------------------------------------------------

    def _mirror(self, vf: VfPolicy, frame: Frame, way: Direction, passage: _Passage) -> None:
        """Copies to the VF's targets, one each. A copy is not mirrored again, and what is closed
        or down gets none; else a target's own filters have no say."""
        targets = {
            mirror.target
            for mirror in vf.mirror
            if mirror.direction in (way, Direction.ALL)
            and (not mirror.vlans or (frame.outer is not None and frame.outer.vid in mirror.vlans))
        }
        for target in sorted(targets - {vf.vfid}):
            if target in self.vfs and self.link_up(self.vfs[target]):
                passage.copy(vf.vfid, target, frame)


def _access_refuses_tag(vf: VfPolicy, frame: Frame) -> Refusal | None:
    """Service access takes the guest's own C-tags, access none; neither takes an outer S-tag."""
    outer = frame.outer
    if outer is None:
        return None
    if outer.tpid == S_TAG:
        return "spoofed"
    if vf.strip_stag:
        return None
    return None if outer.is_priority and not frame.is_veiled else "spoofed"


@dataclass(slots=True)
class _Passage:
    """One frame's way through the NIC, and what it left behind."""

    raw: bytes
    gso: Gso | None
    switched: list[tuple[int, bytes]] = field(default_factory=list)
    copies: list[tuple[int, bytes]] = field(default_factory=list)
    counters: Counter[tuple[int, str]] = field(default_factory=Counter)

    @property
    def packets(self) -> int:
        """On the wire."""
        return self.gso.packets(len(self.raw)) if self.gso else 1

    def payload(self, frame: Frame) -> int:
        """The longest segment's bytes after the Ethernet header and the outer tag, as sent."""
        length = self.gso.longest(len(self.raw)) if self.gso else len(self.raw)
        return length - ETHER_LEN - (TAG_LEN if frame.tags else 0)

    def count(self, port: int, counter: str) -> None:
        self.counters[port, counter] += self.packets

    def drop(self, port: int, way: Literal["rx", "tx"], reason: str | None = None) -> None:
        self.count(port, f"{way}_dropped")
        if reason:
            self.count(port, reason)

    def carry(self, port: int, way: Literal["rx", "tx"], frame: Frame) -> None:
        length = len(bytes(frame))
        repeated = 0
        if self.gso:
            header = self.gso.header + length - len(self.raw)
            repeated = (self.packets - 1) * header
        self.count(port, f"{way}_packets")
        self.counters[port, f"{way}_bytes"] += length + repeated

    def deliver(self, port: int, way: Literal["rx", "tx"], frame: Frame) -> None:
        self.carry(port, way, frame)
        self.switched.append((port, bytes(frame)))

    def copy(self, source: int, target: int, frame: Frame) -> None:
        self.carry(target, "rx", frame)
        self.count(source, "mirrored")
        self.copies.append((target, bytes(frame)))

    def verdict(self) -> Verdict:
        return Verdict(
            tuple(sorted(self.switched)), tuple(sorted(self.copies)), dict(self.counters)
        )
