"""At the door: what a NIC can't enforce is refused or warned of before anything is changed.

The rule is in docs/semantics.md, "What a NIC can't enforce": an attribute that the configuration
states is refused, one left at its default is accepted with a warning that says what the guest can
therefore do; the PF's ``strict`` refuses both, or with false accepts both. What a NIC enforces but
for a limit in words is warned of, and refused where ``strict`` is true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vfd.config.errors import Problem
from vfd.config.fields import as_files_have_it
from vfd.daemon.aim import Configured
from vfd.nic.protocol import Capability, Support
from vfd.policy.no_effect import OF_ONE_KIND
from vfd.policy.rules import Broken
from vfd.policy.values import PfPolicy, VfPolicy


@dataclass(frozen=True, slots=True)
class Shortfall:
    """An attribute that the NIC can't enforce as asked, and is refused for it."""

    field: str
    value: Any
    rule: str


@dataclass(frozen=True, slots=True)
class Admission:
    refused: tuple[Shortfall, ...]
    warnings: tuple[str, ...]


def admit(
    policy: VfPolicy | PfPolicy,
    stated: Collection[str],
    shortfalls: Mapping[str, Capability],
    strict: bool | None,
) -> Admission:
    """Which of ``shortfalls`` are refused and which are only warned of.

    ``stated``: the attributes that the configuration names, whatever their value.
    """
    refused, warnings = [], []
    values = policy.model_dump(mode="json", include=set(shortfalls))
    for attribute, capability in shortfalls.items():
        field = attribute
        if attribute == "vm_mac" and isinstance(policy, VfPolicy) and policy.vm_mac is None:
            field = "macs"  # whose first is the default MAC then
        # one that has a single value doesn't enforce another at all
        limited = capability.support is Support.LIMITED and capability.fixed is None
        if field in OF_ONE_KIND and not limited:
            warnings.append(f"{field} has no effect here: {_consequence(capability)}")
            continue
        if strict or (strict is None and field in stated and not limited):
            found = values[attribute] or getattr(policy, field)
            refused.append(Shortfall(field, found, _refusal(capability)))
        elif limited:
            warnings.append(f"{field} is enforced with a limit: {_consequence(capability)}")
        else:
            warnings.append(f"{field} is not enforced: {_consequence(capability)}")
    return Admission(tuple(refused), tuple(warnings))


def _refusal(capability: Capability) -> str:
    if capability.support is Support.LIMITED:
        return f"this NIC can enforce it only with a limit: {capability.limit}"
    reason = capability.reason or "nothing on this NIC provides it"
    return f"this NIC can't enforce it: {reason}"


def _consequence(capability: Capability) -> str:
    why = capability.reason or capability.limit
    if capability.consequence and why:
        return f"{capability.consequence} ({why})"
    return capability.consequence or why or "nothing on this NIC provides it"


def told_of_vfs(
    remarks: Iterable[Broken], everyone: Iterable[Configured]
) -> Iterator[tuple[int | None, str]]:
    """Remarks in words, by vfid (None: of the PF), with the fields as each VF's file spells them:
    what reading the file told already is the same text then. None of a VF that has no file."""
    by_name = {one.policy.name: one for one in everyone}
    for remark in remarks:
        if not remark.vf:
            yield None, f"{remark.field}: {remark.rule}"
        elif (one := by_name.get(remark.vf)) is not None:
            problem = Problem(one.file, remark.field, "", remark.rule)
            [written] = as_files_have_it([problem], {one.file: one.written})
            yield one.policy.vfid, f"{written.field}: {remark.rule}"


def admit_pf(pf: PfPolicy, capabilities: Mapping[str, Capability], backend: str) -> Admission:
    """The same for a PF on a NIC of this backend."""
    return admit(pf, pf.model_fields_set, pf_shortfalls(pf, capabilities, backend), pf.strict)


def pf_shortfalls(
    policy: PfPolicy, capabilities: Mapping[str, Capability], backend: str | None = None
) -> dict[str, Capability]:
    """``backend``: the NIC's; what only another kind of NIC has is told as a remark.

    The PF's attributes whose value the NIC can't enforce: another than its only one; another
    than the default, of what it lacks; and what is limited, with what follows from that. Of ``vfs``
    the rules know the limit."""
    plain = PfPolicy(id=policy.id)

    def lacks(field: str, capability: Capability) -> bool:
        value = getattr(policy, field)
        differs = bool(value != getattr(plain, field))
        if capability.fixed is not None:
            return bool(value != capability.fixed)
        if capability.support is Support.ABSENT:
            return differs
        return capability.support is Support.LIMITED and differs is not bool(capability.consequence)

    return {
        field: capability
        for field, capability in capabilities.items()
        if field in PfPolicy.model_fields
        and field != "vfs"
        and not (field in OF_ONE_KIND and backend not in (None, OF_ONE_KIND[field].backend))
        and lacks(field, capability)
    }
