"""Where what a NIC enforces isn't, word for word, what a VF's file asks for, and why."""

from __future__ import annotations

from vfd.api import schema
from vfd.daemon.aim import Configured
from vfd.daemon.managed import Managed
from vfd.policy.values import VfRules

_PROTECTION = "not enforced"


def scaled(managed: Managed, one: Configured | None) -> tuple[float, dict[int, float]]:
    """What a VF's guarantee was multiplied with, and by class the shares that it states."""
    if one is None or managed.aim is None:
        return 1.0, {}
    stated = {queue.priority for queue in one.policy.queues}
    shares = {pri: by for pri, by in managed.aim.class_scale.items() if pri in stated}
    return (managed.aim.scale if one.policy.min_rate else 1.0), shares


def differences(
    managed: Managed, one: Configured, rules: VfRules | None
) -> list[schema.Difference]:
    """Where what is in force isn't, word for word, what was asked for."""
    if rules is None:
        why = managed.unmet.get(one.policy.vfid) or managed.detail or "the VF is closed"
        return [schema.Difference(field="", asked="open", in_force="closed", why=why)]
    wanted = managed.aim.desired.by_vfid()[one.policy.vfid] if managed.aim else one.policy
    short = managed.nic.shortfalls(wanted.rules) if managed.nic else {}
    asked = one.policy.rules.model_dump(mode="json")
    resolved, in_force = wanted.rules.model_dump(mode="json"), rules.model_dump(mode="json")
    found = []
    told = asked | {"macs": resolved["macs"]}  # less the first where that is the default MAC
    from_macs = one.policy.vm_mac is None and bool(one.policy.macs)
    for name in VfRules.model_fields:
        if name == "macs" and sorted(in_force[name]) == sorted(told[name]):
            continue
        as_asked = in_force[name] == asked[name]
        unasked = not asked[name] and in_force[name] == resolved[name]
        if as_asked or (unasked and not (name == "vm_mac" and from_macs)):
            continue
        if name in short and name not in one.stated:
            continue  # not asked for, and warned of
        if name in short:
            why = f"{_PROTECTION}: {short[name].consequence or short[name].reason}"
        else:
            why = _why_other(managed, one, name, as_worked_out=in_force[name] == resolved[name])
        found.append(
            schema.Difference(field=name, asked=asked[name], in_force=in_force[name], why=why)
        )
    return found


def _why_other(managed: Managed, one: Configured, name: str, *, as_worked_out: bool) -> str:
    """Why an attribute that the NIC enforces has another value than the file."""
    scale, class_scale = scaled(managed, one)
    steps = managed.unmet.get(one.policy.vfid, "in this NIC's own steps")
    if name == "min_rate" and scale < 1:
        why = f"scaled by {scale:.3g}, as the PF's guarantees add up to more than its link"
    elif name == "queues" and class_scale:
        each = ", ".join(f"class {pri} by {by:.3g}" for pri, by in class_scale.items())
        why = f"scaled, as the PF's shares add up to more than 100 %: {each}"
    elif name == "vm_mac" and as_worked_out:
        return "the first of macs, as no vm_mac is stated"
    elif name == "guest_macs":
        return "as the NIC's driver has it"
    elif as_worked_out:
        return "worked out for this link, this PF and its other VFs"
    else:
        return steps
    return why if as_worked_out else f"{why}; {steps}"
