"""Tx rates, guarantees and traffic classes: HTB trees on the two ends of the shaper veth.

Without ``enable_qos`` the near end's tree has one leaf for each VF with a limit, and for all once
one VF has a guarantee: link → VFs. With it: link → groups → classes → a leaf for each VF in each
class; where classes state no bandwidth, a VF with a guarantee is beside them: link → VF → its
classes. A VF's own limit is over all its classes, which that tree can't say, so VFs with one pass
the far end's tree before: VF → its classes. Only VFs that need the shaper pay for it. Trees are
pure values here; ``changes`` says how one becomes the other while traffic runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfd.nic.netlink import Message, Netlink
from vfd.nic.soft import bandwidth, rtnl
from vfd.nic.soft.bandwidth import traffic_classes
from vfd.nic.soft.tables import class_id, is_pooled, needs_shaper
from vfd.policy.values import NicPolicy, PfPolicy

HANDLE = 1 << 16
"""The HTB root's handle, 1:."""
LINK = HANDLE | 1
_GROUP, _CLASS, _VF = HANDLE | 0x10, HANDLE | 0x40, HANDLE | 0x100
_FIRST_LEAF = HANDLE | 0x1000

_QUEUE = 1000
"""Buffers that wait under one leaf."""
_STEP = 8
"""HTB counts bytes, so rates come in steps of 8 bit/s."""
_LAST = 7
"""HTB's last priority: TC_HTB_NUMPRIO - 1."""


@dataclass(frozen=True, slots=True)
class Class:
    """One HTB class. Rates in bits per second, quantum in bytes."""

    parent: int
    rate: int
    ceil: int
    quantum: int = bandwidth.GSO
    priority: int = 0

    @property
    def is_leaf(self) -> bool:
        return self.quantum > 0


Tree = Mapping[int, Class]
"""By class id, parents before children; empty: no shaping."""


Queue = tuple[int, int]
"""One leaf's: 0 for the near end, 1 for the far end, and its class."""


def vf_of_leaf(classid: int) -> int | None:
    """The VF whose leaf a class is; None: it is no leaf."""
    if classid < _FIRST_LEAF:
        return None
    return (classid - _FIRST_LEAF) % 0x1000 // 8


def trees(nic: NicPolicy, link_bps: int) -> tuple[Tree, Tree]:
    """The trees for a resolved policy: at the near end, and at the far end."""
    if nic.pf.enable_qos:
        return classes(nic, link_bps), own_limits(nic, link_bps)
    return limits(nic, link_bps), {}


def burst(bps: int) -> int:
    """Bytes that may pass at once: a millisecond's worth, or one segmentation-offload buffer."""
    return max(bps // 8000, bandwidth.GSO)


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
    weights = {vfid: bps or left // without or 1 for vfid, bps in guaranteed.items()}
    quantum = bandwidth.quanta({0: weights}, {0: link_bps}, link_bps)
    tree = {LINK: Class(HANDLE, link_bps, link_bps, quantum=0)}
    for vf in vfs:
        tree[class_id(vf.vfid, 0)] = Class(
            parent=LINK,
            rate=guaranteed[vf.vfid] or trickle(link_bps),
            # twice the link: no ceiling of its own, told from one that equals the link
            ceil=stepped(vf.rate.on(link_bps)) or 2 * link_bps,
            quantum=quantum[0, vf.vfid],
        )
    return tree


def classes(nic: NicPolicy, link_bps: int) -> dict[int, Class]:
    """Link → groups → classes → VF leaves; and link → VF → its leaves, where its guarantee is one
    for all classes.

    Groups lend to each other through the link. A class that is strict owns what nobody else is
    guaranteed, of the link or of its group, and is first where more is lent; a guarantee comes
    before it all the same, as the lower level of the tree does."""
    pf = nic.pf
    if not nic.vfs:
        return {}
    known = {c.pri: c for c in traffic_classes(pf)}
    shares = shares_of_classes(nic)
    pooled = {vf.vfid: stepped(vf.min_rate.on(link_bps)) for vf in nic.vfs if is_pooled(pf, vf)}
    floors = {} if pooled else guarantees(nic, shares, link_bps)
    together = {pri: sum(vfs.values()) for pri, vfs in floors.items()}
    owned = bandwidth.of_classes(pf, link_bps, together, reserved=sum(pooled.values()))
    # what its pooled VFs have of a class, they have by their guarantees
    theirs = {pri: sum(of.get(vfid, 0.0) for vfid in pooled) / 100 for pri, of in shares.items()}
    rates = {
        pri: max(trickle(link_bps), stepped(int(bps * max(0.0, 1 - theirs[pri]))))
        for pri, bps in owned.items()
    }
    tree = {LINK: Class(HANDLE, link_bps, link_bps, quantum=0)}
    above = dict.fromkeys(known, LINK)
    for n, group in enumerate(pf.bw_grps):
        members = [p for p in group.classes if p in known and not known[p].lsp]
        if members:
            tree[_GROUP + n] = Class(LINK, sum(rates[p] for p in members), link_bps, quantum=0)
            above |= dict.fromkeys(members, _GROUP + n)
    for pri, c in known.items():
        ceil = max(trickle(link_bps), stepped(link_bps * c.max_bw // 100))
        tree[_CLASS + pri] = Class(above[pri], min(rates[pri], ceil), ceil, quantum=0)
    for vfid, bps in pooled.items():
        tree[_VF + vfid] = Class(LINK, bps, link_bps, quantum=0)
    ranks, last = _ranks(pf)
    quantum = bandwidth.quanta(shares, {pri: max(1.0, bps) for pri, bps in owned.items()}, link_bps)
    least, limits = trickle(link_bps), {vf.vfid: stepped(vf.rate.on(link_bps)) for vf in nic.vfs}
    for pri in known:
        parent, ceil = _CLASS + pri, tree[_CLASS + pri].ceil
        of_class = {v: share for v, share in shares[pri].items() if v not in pooled}
        assured = bandwidth.fill(rates[pri], floors.get(pri, {}), of_class, most=owned[pri] / 100)
        for vfid, limit in limits.items():
            mine = assured.get(vfid)
            most = min(ceil, limit or ceil)
            own = vfid in pooled
            tree[class_id(vfid, pri, pooled=own)] = Class(
                _VF + vfid if own else parent,
                rate=min(most, max(least, int(mine) // _STEP * _STEP) if mine else least),
                ceil=most,
                quantum=quantum.get((pri, vfid), bandwidth.GSO),
                priority=ranks[pri] if vfid in shares[pri] else last,
            )
    return tree


def guarantees(
    nic: NicPolicy, shares: Mapping[int, Mapping[int, float]], link_bps: int
) -> dict[int, dict[int, int]]:
    """By class and vfid: what a VF is guaranteed in each class that it has a share of."""
    stated = {vf.vfid: bps for vf in nic.vfs if (bps := vf.min_rate.on(link_bps))}
    return {
        pri: {vfid: bps for vfid, bps in stated.items() if vfid in having}
        for pri, having in shares.items()
    }


def shares_of_classes(nic: NicPolicy) -> dict[int, dict[int, float]]:
    """By class and vfid: percent, of VFs that have any."""
    found: dict[int, dict[int, float]] = {c.pri: {} for c in traffic_classes(nic.pf)}
    for vf in nic.vfs:
        for queue in vf.queues:
            if queue.share > 0 and queue.priority in found:
                found[queue.priority][vf.vfid] = queue.share
    return found


def _ranks(pf: PfPolicy) -> tuple[dict[int, int], int]:
    """In which order what is lent is given out: each class's place, strict ones over the link
    before those strict in their groups, the larger ``pri`` first; and that of a leaf without a
    share."""
    grouped = {pri for group in pf.bw_grps for pri in group.classes}
    strict = sorted(
        (c for c in traffic_classes(pf) if c.lsp or (c.bsp and c.pri in grouped)),
        key=lambda c: (not c.lsp, -c.pri),
    )
    ranks = {c.pri: min(_LAST, n) for n, c in enumerate(strict)}
    shared = min(_LAST, len(strict))
    ranks |= {c.pri: shared for c in traffic_classes(pf) if c.pri not in ranks}
    return ranks, min(_LAST, shared + 1)


def own_limits(nic: NicPolicy, link_bps: int) -> dict[int, Class]:
    """VF → its classes, for VFs with a limit. A VF's classes share its limit as all VFs' classes
    share the link: those that are strict first, the others in proportion."""
    tree: dict[int, Class] = {}
    rates = bandwidth.of_classes(nic.pf, link_bps, {})
    whole = sum(rates.values())
    quantum = bandwidth.quanta(
        {0: {pri: max(1.0, bps) for pri, bps in rates.items()}}, {0: link_bps}, link_bps
    )
    ranks, _ = _ranks(nic.pf)
    for vf in nic.vfs:
        limit = stepped(vf.rate.on(link_bps))
        if not limit:
            continue
        tree[_VF + vf.vfid] = Class(HANDLE, limit, limit, quantum=0)
        for c in traffic_classes(nic.pf):
            # a leaf sends at its rate unasked, so all of them together are at most the limit
            rate = stepped(limit // 64 + int(limit * 7 / 8 * rates[c.pri] / whole))
            tree[class_id(vf.vfid, c.pri, pooled=is_pooled(nic.pf, vf))] = Class(
                parent=_VF + vf.vfid,
                rate=max(_STEP, rate),
                ceil=limit,
                quantum=quantum[0, c.pri],
                priority=ranks[c.pri],
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
            priority=c.priority if leaf else 0,
        )
        if leaf:
            drops[c.classid] = c.drops
    return {classid: tree[classid] for classid in sorted(tree)}, drops
