"""Tx rates, guarantees and traffic classes: HTB trees on the two ends of the shaper veth.

Without ``enable_qos`` the near end's tree has one leaf for each VF with a limit, and for all once
one VF has a guarantee: link → VFs. With it: link → groups → classes → a leaf for each VF in each
class; a VF's own limit is over all its classes, which that tree can't say, so VFs with one pass the
far end's tree before: VF → its classes. Only VFs that need the shaper pay for it. Trees are pure
values here; ``changes`` says how one becomes the other while traffic runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfd.nic.netlink import Message, Netlink
from vfd.nic.soft import rtnl
from vfd.nic.soft.tables import class_id, needs_shaper
from vfd.policy.values import NicPolicy, PfPolicy, TrafficClass

HANDLE = 1 << 16
"""The HTB root's handle, 1:."""
LINK = HANDLE | 1
_GROUP, _CLASS, _VF = HANDLE | 0x10, HANDLE | 0x40, HANDLE | 0x100
_FIRST_LEAF = HANDLE | 0x1000

_QUEUE = 1000
"""Buffers that wait under one leaf."""
_GSO = 70_000
"""The largest buffer that a guest sends at once, with room: a smaller burst stops it."""
_MAX_QUANTUM = 200_000
_MIN_QUANTUM = 3_000
_STEP = 8
"""HTB counts bytes, so rates come in steps of 8 bit/s."""
_PRIORITY_LINK_STRICT, _PRIORITY_GROUP_STRICT, _PRIORITY_SHARED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Class:
    """One HTB class. Rates in bits per second, quantum in bytes."""

    parent: int
    rate: int
    ceil: int
    quantum: int = _MAX_QUANTUM
    priority: int = _PRIORITY_SHARED

    @property
    def is_leaf(self) -> bool:
        return self.quantum > 0


Tree = Mapping[int, Class]
"""By class id, parents before children; empty: no shaping."""


Queue = tuple[int, int]
"""One leaf's: 0 for the near end, 1 for the far end, and its class."""


def vf_of_leaf(classid: int) -> int | None:
    """The VF whose leaf a class is; None: it is no leaf."""
    return (classid - _FIRST_LEAF) // 8 if classid >= _FIRST_LEAF else None


def trees(nic: NicPolicy, link_bps: int) -> tuple[Tree, Tree]:
    """The trees for a resolved policy: at the near end, and at the far end."""
    if nic.pf.enable_qos:
        return classes(nic, link_bps), own_limits(nic, link_bps)
    return limits(nic, link_bps), {}


def burst(bps: int) -> int:
    """Bytes that may pass at once: a millisecond's worth, or one segmentation-offload buffer."""
    return max(bps // 8000, _GSO)


def trickle(link_bps: int) -> int:
    """The rate of a leaf that is guaranteed nothing; HTB knows no zero."""
    return stepped(max(8_000, link_bps // 100_000))


def stepped(bps: int) -> int:
    return bps // _STEP * _STEP


def limits(nic: NicPolicy, link_bps: int) -> dict[int, Class]:
    """A leaf for each VF with its ceiling and its guarantee. What nobody is guaranteed is shared
    by quantum: in proportion to the guarantees, and evenly among those without."""
    bound = needs_shaper(nic)
    vfs = [vf for vf in nic.vfs if vf.vfid in bound]
    if not vfs:
        return {}
    guaranteed = {vf.vfid: stepped(vf.min_rate.on(link_bps)) for vf in vfs}
    left = max(0, link_bps - sum(guaranteed.values()))
    without = sum(1 for bps in guaranteed.values() if not bps) or 1
    weight = {vfid: bps or left // without or 1 for vfid, bps in guaranteed.items()}
    heaviest = max(weight.values())
    tree = {LINK: Class(HANDLE, link_bps, link_bps, quantum=0)}
    for vf in vfs:
        tree[class_id(vf.vfid, 0)] = Class(
            parent=LINK,
            rate=guaranteed[vf.vfid] or trickle(link_bps),
            # twice the link: no ceiling of its own, told from one that equals the link
            ceil=stepped(vf.rate.on(link_bps)) or 2 * link_bps,
            quantum=max(_MIN_QUANTUM, _MAX_QUANTUM * weight[vf.vfid] // heaviest),
        )
    return tree


def traffic_classes(pf: PfPolicy) -> tuple[TrafficClass, ...]:
    """The PF's classes; 4 equal ones where it states none."""
    return pf.tclasses or tuple(TrafficClass(pri=pri, min_bw=25) for pri in range(4))


def class_rates(pf: PfPolicy, link_bps: int) -> dict[int, int]:
    """Class → the bandwidth that is its own when all are busy, bits per second.

    Classes strict over the link get what they may have; the others divide the rest in proportion
    to ``min_bw``, those without a ``min_bw`` sharing evenly what is not spoken for."""
    classes = traffic_classes(pf)
    strict = [c for c in classes if c.lsp]
    shared = [c for c in classes if not c.lsp]
    taken = min(100.0, float(sum(c.max_bw for c in strict)))
    spoken = sum(c.min_bw for c in shared)
    silent = sum(1 for c in shared if not c.min_bw) or 1
    weight = {c.pri: c.min_bw or max(1.0, (100 - spoken) / silent) for c in shared}
    total = sum(weight.values()) or 1.0
    rates = {c.pri: round(link_bps * c.max_bw / 100) for c in strict}
    for c in shared:
        rates[c.pri] = round(link_bps * (100 - taken) / 100 * weight[c.pri] / total)
    return {pri: max(trickle(link_bps), stepped(bps)) for pri, bps in rates.items()}


def classes(nic: NicPolicy, link_bps: int) -> dict[int, Class]:
    """Link → groups → classes → VF leaves. Groups lend to each other through the link; a class
    strict in its group owns the whole group's rate and is served first."""
    pf = nic.pf
    if not nic.vfs:
        return {}
    known = {c.pri: c for c in traffic_classes(pf)}
    rates = class_rates(pf, link_bps)
    tree = {LINK: Class(HANDLE, link_bps, link_bps, quantum=0)}
    above = dict.fromkeys(known, LINK)
    owned = dict(rates)
    for n, group in enumerate(pf.bw_grps):
        members = [p for p in group.classes if p in known and not known[p].lsp]
        if not members:
            continue
        together = sum(rates[p] for p in members)
        tree[_GROUP + n] = Class(LINK, together, link_bps, quantum=0)
        strict = [p for p in members if known[p].bsp]
        for p in members:
            above[p] = _GROUP + n
            if strict:
                own = together // len(strict) if p in strict else 0
                owned[p] = max(trickle(link_bps), stepped(own))
    for pri, c in known.items():
        ceil = max(trickle(link_bps), stepped(link_bps * c.max_bw // 100))
        tree[_CLASS + pri] = Class(above[pri], min(owned[pri], ceil), ceil, quantum=0)
    heaviest = max(rates.values())
    for vf in nic.vfs:
        asked = {q.priority: q.share for q in vf.queues}
        for pri, c in known.items():
            upper = tree[_CLASS + pri]
            share = asked.get(pri, 100 / len(nic.vfs)) / 100
            weight = rates[pri] / heaviest * min(1.0, share * len(nic.vfs))
            # a guarantee is spread over the classes as the link is
            floor = vf.min_rate.on(link_bps) * rates[pri] // link_bps
            ceil = min(upper.ceil, stepped(vf.rate.on(link_bps)) or upper.ceil)
            rate = max(trickle(link_bps), stepped(max(floor, round(upper.rate * share))))
            tree[class_id(vf.vfid, pri)] = Class(
                parent=_CLASS + pri,
                rate=min(rate, ceil),
                ceil=ceil,
                quantum=max(_MIN_QUANTUM, round(_MAX_QUANTUM * weight)),
                priority=_priority(c),
            )
    return tree


def _priority(c: TrafficClass) -> int:
    if c.lsp:
        return _PRIORITY_LINK_STRICT
    return _PRIORITY_GROUP_STRICT if c.bsp else _PRIORITY_SHARED


def own_limits(nic: NicPolicy, link_bps: int) -> dict[int, Class]:
    """VF → its classes, for VFs with a limit. A VF's classes share its limit as all VFs' classes
    share the link: those that are strict first, the others in proportion."""
    tree: dict[int, Class] = {}
    rates = class_rates(nic.pf, link_bps)
    whole, heaviest = sum(rates.values()), max(rates.values())
    for vf in nic.vfs:
        limit = stepped(vf.rate.on(link_bps))
        if not limit:
            continue
        tree[_VF + vf.vfid] = Class(HANDLE, limit, limit, quantum=0)
        for c in traffic_classes(nic.pf):
            # a leaf sends at its rate unasked, so all of them together are at most the limit
            rate = stepped(limit // 64 + limit * 7 // 8 * rates[c.pri] // whole)
            tree[class_id(vf.vfid, c.pri)] = Class(
                parent=_VF + vf.vfid,
                rate=max(_STEP, rate),
                ceil=limit,
                quantum=max(_MIN_QUANTUM, _MAX_QUANTUM * rates[c.pri] // heaviest),
                priority=_priority(c),
            )
    return dict(sorted(tree.items()))


def changes(index: int, before: Tree, after: Tree) -> tuple[list[Message], list[Message]]:
    """The messages that lead from one tree on the device to the other: those to send before
    frames are sent into the new classes, and those to send when none come to the old ones.

    A tree once made keeps its root, so that its leaves' counters go on; only leaves go."""
    first: list[Message] = []
    if after and not before:
        first.append(rtnl.new_htb(index, HANDLE, "making the shaper"))
    for classid, c in after.items():
        if before.get(classid) == c:
            continue
        first.append(
            rtnl.htb_class(
                index,
                classid,
                c.parent,
                rate=c.rate,
                ceil=c.ceil,
                burst=burst(c.rate),
                cburst=burst(c.ceil),
                quantum=c.quantum,
                priority=c.priority if c.is_leaf else 0,
                what=f"shaping class {classid & 0xFFFF:#x}",
            )
        )
        if c.is_leaf and classid not in before:
            first.append(rtnl.new_pfifo(index, classid, _QUEUE, "queueing in the shaper"))
    if before and not after:
        return first, [rtnl.del_root_qdisc(index, "taking the shaper away")]
    last = [
        rtnl.del_class(index, classid, f"taking class {classid & 0xFFFF:#x} away")
        for classid in reversed(list(before))
        if classid not in after
    ]
    return first, last


def moved(before: Tree, after: Tree) -> bool:
    """Whether a class hangs under another parent: HTB can't move one, the tree is made anew."""
    return any(c in after and after[c].parent != before[c].parent for c in before)


def read(netlink: Netlink, index: int) -> tuple[dict[int, Class], dict[int, int]]:
    """The tree that a device has now, parents first, and each leaf's drops, in buffers."""
    tree: dict[int, Class] = {}
    drops: dict[int, int] = {}
    for found in rtnl.classes(netlink, index):
        c = rtnl.parse_htb_class(found)
        if c is None:
            continue
        leaf = c.classid >= _FIRST_LEAF
        tree[c.classid] = Class(
            parent=HANDLE if c.parent == rtnl.TC_H_ROOT else c.parent,
            rate=c.rate,
            ceil=c.ceil,
            quantum=c.quantum if leaf else 0,
            priority=c.priority if leaf else _PRIORITY_SHARED,
        )
        if leaf:
            drops[c.classid] = c.drops
    return {classid: tree[classid] for classid in sorted(tree)}, drops
