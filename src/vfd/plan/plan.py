"""Desired minus observed: which changes, in which order, bring a NIC to what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from vfd.plan.changes import Change, PfChange, VfChange
from vfd.policy.values import NicPolicy, PfPolicy, VfRules

Expressible = Callable[[int, VfRules | None], VfRules | None]
"""``Nic.expressible``: rules as the NIC will show them; of None, how it shows a closed VF."""

PF_FIELDS = frozenset(PfPolicy.model_fields) - {
    "id",
    "backend",
    "default_mtu",
    "strict",
    "unconfigured",
}
"""The PF's attributes that live in the NIC. The others only guide what is asked of it."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What a NIC shows: the PF (None: never configured by vfd) and each VF there is."""

    pf: PfPolicy | None
    vfs: Mapping[int, VfRules | None]


def plan(
    desired: NicPolicy,
    observed: Observed,
    expressible: Expressible,
    *,
    pf_fields: Collection[str] = PF_FIELDS,
    only: Collection[int] | None = None,
    ours: Collection[int] | None = None,
) -> tuple[Change, ...]:
    """The changes that lead from ``observed`` to ``desired`` (resolved), in a safe order.

    A VF closes before the PF or another VF takes what it had; a MAC is released before another VF
    takes it; a mirror starts after its target is there and ends before its target goes. Where two
    VFs wait for each other (they swap MACs, or mirror each other), one changes in two steps.
    The result is empty when the NIC shows what is desired.

    ``pf_fields``: the PF's attributes that count (a NIC may have fewer). ``only``: these VFs.
    ``ours``: no others are closed.
    """
    wanted = desired.by_vfid()
    changes = []
    for vfid in sorted(wanted.keys() | observed.vfs.keys() if only is None else only):
        policy = wanted.get(vfid)
        seen = observed.vfs.get(vfid)
        closed = expressible(vfid, None)
        if policy is None:
            if seen is not None and seen != closed and (ours is None or vfid in ours):
                changes.append(VfChange(vfid, seen, None))
        else:
            after = expressible(vfid, policy.rules)
            if seen != after:
                changes.append(VfChange(vfid, None if seen == closed else seen, after))
    ordered = list(_in_order(changes))
    pf = _pf_change(desired.pf, observed.pf, pf_fields)
    if pf is not None:
        ordered_with_pf: list[Change] = [*ordered]
        ordered_with_pf.insert(_place_of_pf(pf, ordered), pf)
        return tuple(ordered_with_pf)
    return tuple(ordered)


def _place_of_pf(pf: PfChange, ordered: list[VfChange]) -> int:
    """VFs that go are closed before; VFs that come are opened after."""
    closings = [i for i, change in enumerate(ordered) if change.after is None]
    if pf.before is not None and (pf.after.vfs or 0) < (pf.before.vfs or 0):
        return closings[-1] + 1 if closings else 0
    return next((i for i, change in enumerate(ordered) if change.after is not None), len(ordered))


def _pf_change(
    desired: PfPolicy, seen: PfPolicy | None, pf_fields: Collection[str]
) -> PfChange | None:
    if seen is None:
        return PfChange(None, desired)
    # What doesn't live in the NIC isn't a change to it.
    seen = seen.model_copy(
        update={
            f: getattr(desired, f)
            for f in PfPolicy.model_fields
            if f not in pf_fields or (f == "vfs" and desired.vfs is None)
        }
    )
    return PfChange(seen, desired) if seen != desired else None


def owned(rules: VfRules | None) -> frozenset[str]:
    """The MACs that the policy gives to a VF."""
    if rules is None:
        return frozenset()
    return frozenset(rules.macs) | ({rules.vm_mac} if rules.vm_mac else frozenset())


def _targets(rules: VfRules | None) -> frozenset[int]:
    return frozenset(m.target for m in rules.mirror) if rules else frozenset()


class _Needs:
    """What must have happened before a change, and what it makes possible for others."""

    def __init__(self, change: VfChange) -> None:
        self.change = change
        had, gets = owned(change.before), owned(change.after)
        self.takes = gets - had
        self.releases = had - gets
        mirrored, mirrors = _targets(change.before), _targets(change.after)
        self.starts_mirror_to = mirrors - mirrored
        self.ends_mirror_to = mirrored - mirrors
        self.opens = change.vfid if change.before is None else None
        self.closes = change.vfid if change.after is None else None
        kind = 0 if change.after is None else 2 if change.before is None else 1
        self.rank = (kind, change.vfid)
        """Closings, then updates, then openings; by VF."""

    @property
    def divisible(self) -> bool:
        """A first step could let something go, or open without mirrors."""
        if self.opens is not None:
            return bool(self.starts_mirror_to)
        return bool(self.releases or self.ends_mirror_to)


def _in_order(changes: Iterable[VfChange]) -> Iterator[VfChange]:
    waiting = sorted((_Needs(c) for c in changes), key=lambda n: n.rank)
    released = {mac for n in waiting for mac in n.releases}
    if not any(n.takes & released or n.starts_mirror_to or n.ends_mirror_to for n in waiting):
        yield from (n.change for n in waiting)
        return
    while waiting:
        ready = next((n for n in waiting if not _blocked(n, waiting)), None)
        if ready is not None:
            yield ready.change
            waiting.remove(ready)
            continue
        # Only a circle leaves none ready, and in a circle somebody can go half way.
        stuck = next(i for i, n in enumerate(waiting) if n.divisible)
        first, rest = _split(waiting[stuck])
        yield first
        waiting[stuck] = _Needs(rest)


def _blocked(change: _Needs, waiting: list[_Needs]) -> bool:
    for other in waiting:
        if other is change:
            continue
        if change.takes & other.releases:
            return True
        if other.opens in change.starts_mirror_to:
            return True
        if change.closes is not None and change.closes in other.ends_mirror_to:
            return True
    return False


def _split(needs: _Needs) -> tuple[VfChange, VfChange]:
    """A first step that only lets go (of MACs and mirrors), and the rest. For a VF that opens, the
    first step is all but its mirrors."""
    change = needs.change
    if change.before is None:
        assert change.after is not None
        middle = change.after.model_copy(update={"mirror": ()})
    else:
        kept = owned(change.before) - needs.releases
        ended = needs.ends_mirror_to
        middle = change.before.model_copy(
            update={
                "vm_mac": change.before.vm_mac if change.before.vm_mac in kept else None,
                "macs": tuple(m for m in change.before.macs if m in kept),
                "mirror": tuple(m for m in change.before.mirror if m.target not in ended),
            }
        )
    return VfChange(change.vfid, change.before, middle), VfChange(change.vfid, middle, change.after)


def field_values(change: Change) -> Iterator[tuple[str, object, object]]:
    """(attribute, before, after) in the spelling of the files; null where there was or is none.

    Of a VF that opens, those that differ from the defaults; of one that closes, none.
    """
    if change.after is None:
        return
    after = change.after.model_dump(mode="json")
    if change.before is None:
        base = VfRules() if isinstance(change, VfChange) else PfPolicy(id=change.after.id)
        before: dict[str, object] = {}
        names = [f for f in after if after[f] != base.model_dump(mode="json")[f]]
    else:
        before = change.before.model_dump(mode="json")
        names = list(change.fields)
    for name in names:
        yield name, before.get(name), after[name]
