"""The rules between the fields of a policy, between VFs, and between a VF and its PF.

Sources: docs/semantics.md ("The VF configuration", "Mirroring", "Rates and traffic classes").
Every function here is pure and reports all that is broken at once; nothing raises.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from vfd.policy.addresses import MAX_NETDEV, is_pci_address, no_soft_id
from vfd.policy.guarantees import needed
from vfd.policy.memo import by_identity
from vfd.policy.mirrors import merged
from vfd.policy.rate import LEAST_BPS, Rate, bps_text
from vfd.policy.resolve import SLACK, Resolved, resolve, uses_of
from vfd.policy.values import (
    MAX_RESERVED,
    Direction,
    Limits,
    Mirror,
    NicPolicy,
    PfPolicy,
    VfPolicy,
    reserving,
)

__all__ = [
    "Broken",
    "Resolved",
    "Room",
    "check",
    "check_names",
    "check_pf",
    "check_vf",
    "resolve",
]

SPREAD = 10
"""The largest share of a class is at most this many times the smallest."""


@dataclass(frozen=True, slots=True)
class Broken:
    """One broken rule; from ``warnings``, one remark."""

    vf: str
    """The VF's name; '' for the PF."""
    field: str
    """The field's path below the VF or the PF, like ``mirror[0].target``."""
    value: Hashable
    """What the field has; None where it has nothing."""
    rule: str
    """What holds, and what to do."""
    other_vf: str | None = None
    """The VF that it is in conflict with."""


class Room(Protocol):
    """What a NIC has room for: ``values.Limits``, or a NIC's capabilities."""

    @property
    def max_vfs(self) -> int: ...
    @property
    def max_vlans(self) -> int: ...
    @property
    def max_macs(self) -> int: ...
    @property
    def max_mirrors(self) -> int | None: ...


NO_LIMITS = Limits()
_NOTHING: frozenset[str] = frozenset()
NOTHING_UNKNOWN: Mapping[str, frozenset[str]] = {}


def check(
    nic: NicPolicy,
    *,
    link_bps: int | None = None,
    limits: Room = NO_LIMITS,
    in_force: Iterable[VfPolicy] = (),
    unknown: Mapping[str, frozenset[str]] = NOTHING_UNKNOWN,
) -> tuple[Broken, ...]:
    """Every rule that ``nic`` breaks: within each VF, between its VFs, and with its PF.

    ``link_bps``: the link's speed; None while it is unknown, and then rates in bits per second
    are not held against it. Where VFs are in conflict, the later one of ``nic.vfs`` is the one
    that breaks the rule, and the earlier one is ``other_vf``: put a newcomer last.

    ``in_force``: the VFs' policies until now. Guarantees among them that fitted a faster link break
    no rule by staying or becoming smaller; ``resolve`` scales them.
    ``unknown``: by the VF's name, fields that could not be read and have their defaults here.
    """
    broken = list(check_pf(nic.pf, limits=limits))
    room = _room(limits.max_vfs, limits.max_vlans, limits.max_macs, limits.max_mirrors)
    before = {vf.vfid: vf for vf in in_force}
    for vf in nic.vfs:
        found = _alone(vf, nic.pf, link_bps, room, unknown.get(vf.name, _NOTHING))
        if found and _no_further_above(vf, before.get(vf.vfid), link_bps):
            found = tuple(one for one in found if one.field != "min_rate")
        broken += found
    broken += check_names(nic.vfs)
    broken += _vfids(nic.vfs)
    broken += _owners(nic.vfs)
    if not nic.pf.vf_oversubscription:
        broken += _guarantees(nic, link_bps, before)
    broken += _shares(nic)
    return tuple(broken)


@lru_cache(maxsize=16)
def _room(max_vfs: int, max_vlans: int, max_macs: int, max_mirrors: int | None) -> Limits:
    return Limits(max_vfs, max_vlans, max_macs, max_mirrors=max_mirrors)


@by_identity
def _alone(
    vf: VfPolicy, pf: PfPolicy, link_bps: int | None, room: Limits, unknown: frozenset[str]
) -> tuple[Broken, ...]:
    """The rules that a VF keeps or breaks whatever the other VFs are."""
    within = check_vf(vf, link_bps=link_bps, limits=room, unknown=unknown)
    reserved = () if vf.trust or "trust" in unknown else _reserved(vf, pf)
    return (*within, *_vf_on_pf(vf, pf, room), *reserved)


def _reserved(vf: VfPolicy, pf: PfPolicy) -> Iterator[Broken]:
    if not pf.reserved_macs:
        return
    for path, mac in _claims(vf):
        if entry := reserving(pf, mac):
            rule = (
                f"reserved_macs of {pf.id} has {entry}: no VF may have such a MAC, but one whose"
                ' file has "trust": true'
            )
            yield Broken(vf.name, path, mac, rule)


def check_names(vfs: Iterable[VfPolicy]) -> tuple[Broken, ...]:
    """Names that VFs of one host have in common, on whichever PFs.

    ``check`` does this for the VFs of one NIC.
    """
    first: dict[str, VfPolicy] = {}
    broken = []
    for vf in vfs:
        other = first.setdefault(vf.name, vf)
        if other is not vf:
            rule = f"a name is unique on the host: VF {other.vfid} of {other.pciid} has it"
            broken.append(Broken(vf.name, "name", vf.name, rule, other.name))
    return tuple(broken)


def check_vf(
    vf: VfPolicy,
    *,
    link_bps: int | None = None,
    limits: Room = NO_LIMITS,
    unknown: Collection[str] = (),
) -> tuple[Broken, ...]:
    """The rules between the fields of one VF.

    ``unknown``: fields that could not be read; a rule that looks at one of them is not judged.
    """
    return tuple(
        Broken(vf.name, path, value, rule)
        for looks_at, path, value, rule in _within(vf, link_bps, limits)
        if not any(name in unknown for name in looks_at)
    )


_Found = tuple[tuple[str, ...], str, Hashable, str]
"""The fields that a broken rule looks at, the path of the one it names, its value, the rule."""


def _within(vf: VfPolicy, link_bps: int | None, limits: Room) -> Iterator[_Found]:
    """Each broken rule within a VF."""
    if vf.strip_ctag and vf.strip_stag:
        rule = "access is by customer tag or by service tag: not strip_ctag with strip_stag"
        yield ("strip_ctag", "strip_stag"), "strip_ctag", True, rule
    if not vf.vlans and not vf.allow_untagged:
        rule = "required unless allow_untagged is true: without either, nothing could pass"
        yield ("vlans", "allow_untagged"), "vlans", None, rule
    elif not vf.vlans and (vf.strip_ctag or vf.strip_stag):
        strip = "strip_ctag" if vf.strip_ctag else "strip_stag"
        rule = f"{strip} needs the VLAN whose tag the NIC inserts and strips"
        yield ("vlans", "strip_ctag", "strip_stag"), "vlans", None, rule
    if len(vf.vlans) > limits.max_vlans:
        rule = f"the NIC has room for {limits.max_vlans} VLANs of a VF"
        yield ("vlans",), "vlans", f"{len(vf.vlans)} VLANs", rule
    if twice := _repeated(vf.vlans):
        yield ("vlans",), "vlans", twice, "each VLAN is listed once"
    if len(vf.macs) > limits.max_macs:
        rule = f"the NIC has room for {limits.max_macs} further MACs of a VF"
        yield ("macs",), "macs", f"{len(vf.macs)} MACs", rule
    if twice := _repeated(vf.macs):
        yield ("macs",), "macs", twice, "each MAC is listed once"
    for path, limit in (("rate", vf.rate), ("max_rx_rate", vf.max_rx_rate)):
        if limit.bps is not None and limit.bps < LEAST_BPS:
            rule = f"at least {bps_text(LEAST_BPS)}: less would hold a frame for more than a second"
            yield (path,), path, str(limit), rule
    if _above(vf.min_rate, vf.rate, link_bps):
        rule = f"a VF's guarantee is not above its limit, which is {vf.rate} (rate)"
        yield ("min_rate", "rate"), "min_rate", str(vf.min_rate), rule
    if twice := _repeated([queue.priority for queue in vf.queues]):
        yield ("queues",), "queues", twice, "each traffic class (priority) has one share"
    for number, mirror in enumerate(vf.mirror):
        if mirror.target == vf.vfid:
            rule = "a VF is no mirror of itself: name another VF of the PF"
            yield ("mirror", "vfid"), f"mirror[{number}].target", mirror.target, rule
        if twice := _repeated(mirror.vlans):
            yield ("mirror",), f"mirror[{number}].vlans", twice, "each VLAN is listed once"
    if targets := _copied_twice(vf.mirror):
        rule = "a frame is copied to a target once: these mirrors overlap in direction and VLANs"
        yield ("mirror",), "mirror", targets, rule
    copies = len(merged(vf.mirror, source=vf.vfid))
    if limits.max_mirrors is not None and copies > limits.max_mirrors:
        rule = (
            f"the NIC copies one VF's frames to at most {limits.max_mirrors} targets (one with"
            " other vlans for in than for out counts twice)"
        )
        yield ("mirror",), "mirror", f"{copies} targets", rule


def _repeated(values: Sequence[Hashable]) -> tuple[Hashable, ...]:
    if len(set(values)) == len(values):
        return ()
    return tuple(value for value, times in Counter(values).items() if times > 1)


def _above(guarantee: Rate, limit: Rate, link_bps: int | None) -> bool:
    if not guarantee or not limit:
        return False
    if guarantee.bps is None and limit.bps is None:
        return (guarantee.share or 0) > (limit.share or 0)
    if guarantee.bps is not None and limit.bps is not None:
        return guarantee.bps > limit.bps
    return link_bps is not None and guarantee.on(link_bps) > limit.on(link_bps)


def _copied_twice(mirrors: Sequence[Mirror]) -> tuple[int, ...]:
    """Targets that would get a copy of one frame from two mirrors."""
    if len(mirrors) < 2:
        return ()
    covered: dict[tuple[int, Direction], list[tuple[int, ...]]] = defaultdict(list)
    for mirror in mirrors:
        for way in (Direction.IN, Direction.OUT):
            if mirror.direction in (way, Direction.ALL):
                covered[mirror.target, way].append(tuple(set(mirror.vlans)))
    twice = {
        target
        for (target, _), lists in covered.items()
        if len(lists) > 1 and (() in lists or _repeated([vid for vids in lists for vid in vids]))
    }
    return tuple(sorted(twice))


def check_pf(
    pf: PfPolicy, *, limits: Room = NO_LIMITS, unknown: Collection[str] = ()
) -> tuple[Broken, ...]:
    """The rules between the fields of one PF.

    ``unknown``: fields that could not be read; a rule that looks at one of them is not judged.
    """
    found = [*_soft(pf), *_classes(pf), *_groups(pf)]
    if len(pf.reserved_macs) > MAX_RESERVED:
        count, rule = f"{len(pf.reserved_macs)} entries", f"at most {MAX_RESERVED}: use prefixes"
        found.append((("reserved_macs",), "reserved_macs", count, rule))
    if twice := _repeated(pf.reserved_macs):
        rule = "each MAC or prefix is listed once"
        found.append((("reserved_macs",), "reserved_macs", twice, rule))
    if pf.vfs is not None and pf.vfs > limits.max_vfs:
        found.append((("vfs",), "vfs", pf.vfs, f"the NIC has at most {limits.max_vfs} VFs"))
    return tuple(
        Broken("", path, value, rule)
        for looks_at, path, value, rule in found
        if not any(name in unknown for name in looks_at)
    )


def _soft(pf: PfPolicy) -> Iterator[_Found]:
    if pf.link_speed == 0:
        yield ("link_speed",), "link_speed", 0, "a link has a speed: more than 0"
    if pf.backend != "soft":
        return
    if is_pci_address(pf.id):
        rule = "a software NIC has no PCI address: give it a name, like soft0"
        yield ("backend", "id"), "id", pf.id, rule
        return
    if pf.vfs is None:
        rule = "required: a software NIC has as many VFs as this says"
        yield ("backend", "id", "vfs"), "vfs", None, rule
    if why := no_soft_id(pf.id):
        yield ("backend", "id"), "id", pf.id, why
    longest = max((f"{pf.id}v{max(0, (pf.vfs or 1) - 1)}", *_shaper_names(pf)), key=len)
    if len(longest) > MAX_NETDEV:
        rule = f"its VFs are netdevs, and {longest} is longer than {MAX_NETDEV} characters"
        yield ("backend", "id", "vfs"), "id", pf.id, rule
    if pf.uplink is not None and (pf.uplink == pf.id or _is_own(pf, pf.uplink)):
        rule = "a software NIC's wire is another netdev than its own"
        yield ("backend", "id", "uplink"), "uplink", pf.uplink, rule


def _shaper_names(pf: PfPolicy) -> tuple[str, ...]:
    """Of a NIC that has no namespace of its own, where names are short."""
    return (f"{pf.id}-s0", f"{pf.id}-s1") if pf.guest == "tap" else ()


def _is_own(pf: PfPolicy, netdev: str) -> bool:
    """Whether a software NIC has a netdev of that name, or wants one where its wire goes."""
    number = netdev.removeprefix(f"{pf.id}v")
    if (number != netdev and number.isdigit()) or netdev in _shaper_names(pf):
        return True
    inside = netdev in ("shaper0", "shaper1") or re.fullmatch(r"v[0-9]{1,3}", netdev)
    return pf.guest == "veth" and bool(inside)


def _classes(pf: PfPolicy) -> Iterator[_Found]:
    looks_at = ("tclasses",)
    if twice := _repeated([tc.pri for tc in pf.tclasses]):
        yield looks_at, "tclasses", twice, "each pri is one traffic class"
    for number, tc in enumerate(pf.tclasses):
        path = f"tclasses[{number}]"
        if tc.pri >= len(pf.tclasses):
            rule = f"{len(pf.tclasses)} traffic classes have pri 0 … {len(pf.tclasses) - 1}"
            yield looks_at, f"{path}.pri", tc.pri, rule
        if tc.max_bw < tc.min_bw:
            rule = f"max_bw is not below the class's own min_bw, which is {tc.min_bw}"
            yield looks_at, f"{path}.max_bw", tc.max_bw, rule
    total = sum(tc.min_bw for tc in pf.tclasses)
    if total > 100:
        rule = f"min_bw of all classes adds up to {total} % of the link: at most 100"
        yield looks_at, "tclasses", tuple(tc.min_bw for tc in pf.tclasses), rule


def _groups(pf: PfPolicy) -> Iterator[_Found]:
    there = {tc.pri for tc in pf.tclasses} or set(range(pf.classes))
    group_of: dict[int, str] = {}
    for group in pf.bw_grps:
        path = f"bw_grps.{group.name}"
        if not group.classes:
            yield ("bw_grps",), path, (), "a bandwidth group has at least one traffic class"
        for tc in group.classes:
            if tc not in there:
                yield ("bw_grps", "tclasses"), path, tc, f"the PF has no traffic class {tc}"
            elif tc in group_of:
                rule = f"a class is in one group, and {group_of[tc]} has it"
                yield ("bw_grps", "tclasses"), path, tc, rule
            group_of.setdefault(tc, group.name)


def _vf_on_pf(vf: VfPolicy, pf: PfPolicy, limits: Room) -> Iterator[Broken]:
    vfs = limits.max_vfs if pf.vfs is None else pf.vfs
    if vf.vfid >= vfs:
        rule = f"{pf.id} has {_vfs(vfs)}: raise the PF's vfs, or name one that exists"
        yield Broken(vf.name, "vfid", vf.vfid, rule)
    if vf.mtu is not None and vf.mtu > pf.mtu:
        yield Broken(vf.name, "mtu", vf.mtu, f"not above the PF's mtu, which is {pf.mtu}")
    for number, mirror in enumerate(vf.mirror):
        if mirror.target >= vfs:
            rule = f"{pf.id} has {_vfs(vfs)}: a mirror's target is one of them"
            yield Broken(vf.name, f"mirror[{number}].target", mirror.target, rule)
    there = {tc.pri for tc in pf.tclasses} or set(range(pf.classes))
    for number, queue in enumerate(vf.queues):
        if queue.priority not in there:
            rule = f"{pf.id} has no such traffic class, only {', '.join(map(str, sorted(there)))}"
            yield Broken(vf.name, f"queues[{number}].priority", queue.priority, rule)


def _vfs(number: int) -> str:
    return f"VFs 0 … {number - 1}" if number else "no VFs"


def _vfids(vfs: Sequence[VfPolicy]) -> Iterator[Broken]:
    first: dict[int, VfPolicy] = {}
    for vf in vfs:
        other = first.setdefault(vf.vfid, vf)
        if other is not vf:
            rule = f"a VF has one configuration, and {other.name} is this VF's"
            yield Broken(vf.name, "vfid", vf.vfid, rule, other.name)


def _owners(vfs: Sequence[VfPolicy]) -> Iterator[Broken]:
    owner: dict[str, tuple[VfPolicy, str]] = {}
    for vf in vfs:
        for path, mac in _claims(vf):
            other, its = owner.setdefault(mac, (vf, path))
            if other is not vf:
                rule = f"one VF of the PF owns a MAC, and {other.name} owns this one (its {its})"
                yield Broken(vf.name, path, mac, rule, other.name)


def _claims(vf: VfPolicy) -> Iterator[tuple[str, str]]:
    """The MACs that a VF's configuration states, and where."""
    if vf.vm_mac:
        yield "vm_mac", vf.vm_mac
    for number, mac in enumerate(vf.macs):
        yield f"macs[{number}]", mac


def _no_further_above(vf: VfPolicy, before: VfPolicy | None, link_bps: int | None) -> bool:
    """Whether a guarantee above the VF's limit was so before, by as much: a limit that is a share
    of the link falls with it."""
    if before is None or link_bps is None:
        return False
    return _excess(vf, link_bps) <= _excess(before, link_bps)


def _excess(vf: VfPolicy, link_bps: int) -> int:
    return vf.min_rate.on(link_bps) - vf.rate.on(link_bps) if vf.rate else 0


def _guarantees(
    nic: NicPolicy, link_bps: int | None, before: Mapping[int, VfPolicy]
) -> Iterator[Broken]:
    """What the guarantees need (``guarantees.needed``), blamed on the first VF that has more than
    ``before`` and no longer fits: into the link, or into what was needed where that is above it
    already."""
    link = link_bps or 1.0
    parts = {vf.vfid: part for vf in nic.vfs if (part := _part(vf.min_rate, link_bps))}
    if not parts:
        return
    uses = uses_of(nic)
    had = {vfid: _part(vf.min_rate, link_bps) or 0.0 for vfid, vf in before.items()}
    room = max(link, needed(nic.pf, link, had, uses)) * SLACK
    total = needed(nic.pf, link, parts, uses)
    if total <= room:
        return
    grown = [vfid for vfid, part in parts.items() if part > had.get(vfid, 0.0)]
    grown = grown or list(parts)  # what was there before no longer fits the classes
    fitting = {vfid: part for vfid, part in parts.items() if vfid not in grown}
    while (
        len(grown) > 1
        and needed(nic.pf, link, {**fitting, grown[0]: parts[grown[0]]}, uses) <= room
    ):
        fitting[grown[0]] = parts[grown[0]]
        grown.pop(0)
    vfs = nic.by_vfid()
    other = vfs[max(fitting, key=lambda vfid: fitting[vfid])].name if fitting else None
    blamed = vfs[grown[0]]
    speed = f" of {bps_text(link_bps)}" if link_bps else ""
    if uses and sum(parts.values()) <= room:
        rule = (
            "a guest sends in whichever traffic class it likes, so the PF's guarantees must be"
            " there in each class, beside min_bw of the others: that takes"
            f" {total / link:.4g} times the link{speed}. Lower them or min_bw, give the VF a share"
            " of 0 (queues) in classes that it doesn't use, or set vf_oversubscription on the PF,"
            " which scales the guarantees"
        )
    else:
        rule = (
            f"the guarantees of the PF's VFs add up to {total / link:.4g} times the link{speed}:"
            " lower them, or set vf_oversubscription on the PF, which scales them"
        )
    yield Broken(blamed.name, "min_rate", str(blamed.min_rate), rule, other)


def _part(rate: Rate, link_bps: int | None) -> float | None:
    """Bits per second; without a link speed the share of the link, or None if that is unknown."""
    if rate.bps is not None:
        return None if link_bps is None else float(rate.bps)
    return (rate.share or 0.0) * (link_bps or 1.0)


def _shares(nic: NicPolicy) -> Iterator[Broken]:
    """In each class: the sum of the shares, and the spread between them."""
    of_class: dict[int, list[tuple[float, str, VfPolicy]]] = defaultdict(list)
    for vf in nic.vfs:
        for number, queue in enumerate(vf.queues):
            if queue.share > 0:
                path = f"queues[{number}].share"
                of_class[queue.priority].append((queue.share, path, vf))
    for priority, shares in sorted(of_class.items()):
        total = sum(share for share, _, _ in shares)
        if total > 100 * SLACK and not nic.pf.vf_oversubscription:
            yield _over_whole(priority, total, shares)
        low = min(shares, key=lambda entry: entry[0])
        high = max(shares, key=lambda entry: entry[0])
        if high[0] > low[0] * SPREAD * SLACK:
            later, other = sorted((low, high), key=shares.index, reverse=True)
            rule = (
                f"the largest share of class {priority} is at most {SPREAD} times the smallest,"
                f" and {other[2].name} has {other[0]:g} %"
            )
            yield Broken(later[2].name, later[1], later[0], rule, other[2].name)


def _over_whole(
    priority: int, total: float, shares: Sequence[tuple[float, str, VfPolicy]]
) -> Broken:
    running = 0.0
    for number, (share, path, vf) in enumerate(shares):
        running += share
        if running > 100 * SLACK:
            earlier = max(shares[:number], key=lambda entry: entry[0])
            rule = (
                f"the VFs' shares of class {priority} add up to {total:g} %: at most 100, or set"
                " vf_oversubscription on the PF, which scales them"
            )
            return Broken(vf.name, path, share, rule, earlier[2].name)
    raise AssertionError("the sum was above 100")
