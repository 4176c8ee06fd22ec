"""Changes of a NIC one by one: the states between them, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from vfd.config.errors import shown
from vfd.nic.protocol import Nic, NicError
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.plan.plan import owned
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy, VfRules


def one_by_one(nic: Nic, desired: NicPolicy, changes: Sequence[Change]) -> list[tuple[Change, str]]:
    """Makes each of the changes that can be made, and returns the others with the reasons.

    One that would give a VF a MAC of which another VF could not be freed is not made, and a VF
    whose change comes in two steps is not left between them.
    """
    reached, failed = state_before(desired, changes), list[tuple[Change, str]]()

    def make(change: Change) -> bool:
        nonlocal reached
        wanted = state_after(reached, change)
        try:
            if taken := _still_owned(reached, change):
                raise NicError(taken)
            nic.apply(wanted, [change])
        except NicError as reason:
            failed.append((change, str(reason)))
            return False
        reached = wanted
        return True

    begun: dict[int, VfChange] = {}
    for change in changes:
        if make(change) and isinstance(change, VfChange):
            begun.setdefault(change.vfid, change)
    for change, _ in tuple(failed):
        first = begun.get(change.vfid) if isinstance(change, VfChange) else None
        if first is not None and first.after == change.before:
            make(first.inverse())
    return [(change, why) for change, why in failed if change in changes]


def _still_owned(reached: NicPolicy, change: Change) -> str:
    """Which VF has a MAC that the change would give to another; '' where none has."""
    if isinstance(change, PfChange):
        return ""
    gets = owned(change.after) - owned(change.before)
    for vf in reached.vfs:
        if vf.vfid != change.vfid and (macs := gets & owned(vf.rules)):
            return f"VF {vf.vfid} still has {', '.join(sorted(macs))}"
    return ""


def state_before(desired: NicPolicy, changes: Sequence[Change]) -> NicPolicy:
    """What a NIC enforces that ``changes`` lead from to ``desired``."""
    for change in reversed(changes):
        back = change.inverse()
        if back is not None:
            desired = state_after(desired, back)
    return desired


def state_after(policy: NicPolicy, change: Change) -> NicPolicy:
    """``policy`` with one change more."""
    if isinstance(change, PfChange):
        return NicPolicy.model_construct(pf=change.after, vfs=policy.vfs)
    vfs = policy.by_vfid()
    if change.after is None:
        vfs.pop(change.vfid, None)
    else:
        vfs[change.vfid] = without_file(policy.pf, change.vfid, change.after)
    return NicPolicy.model_construct(pf=policy.pf, vfs=tuple(vfs[v] for v in sorted(vfs)))


def without_file(pf: PfPolicy, vfid: int, rules: VfRules) -> VfPolicy:
    """The policy of a VF of which only its rules are known."""
    fields = {name: getattr(rules, name) for name in VfRules.model_fields}
    return VfPolicy.model_construct(name=f"{pf.id}:{vfid}", pciid=pf.id, vfid=vfid, **fields)


def vfid_of(change: Change) -> int | None:
    """None: the PF's own."""
    return change.vfid if isinstance(change, VfChange) else None


def whose(change: Change) -> str:
    """Whom it concerns, in words."""
    return f"VF {change.vfid}" if isinstance(change, VfChange) else "the PF"


def differences(changes: Sequence[Change]) -> str:
    """What is shown against what was asked, of the first few changes that were not made."""
    texts = []
    for change in changes[:3]:
        fields = ", ".join(
            f"{f} is {_shown_value(change.before, f)} and not {_shown_value(change.after, f)}"
            for f in change.fields[:4]
        )
        texts.append(f"{whose(change)}: {fields}")
    return "; ".join(texts)


def _shown_value(rules: VfRules | PfPolicy | None, name: str) -> str:
    if rules is None:
        return "closed"
    return shown(rules.model_dump(mode="json", include={name}).get(name))


def same(one: VfPolicy | None, other: VfPolicy | None) -> bool:
    """Whether two policies ask for the same; soon told of one and the same object."""
    return one is other or one == other
