"""A VF's rules in the parts that its PF's surfaces enforce, and those parts as rules again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vfd.nic.kernel.surface import TAGGING, Assignment, Shown, Surface, assign
from vfd.nic.protocol import NicError
from vfd.policy.rate import NONE
from vfd.policy.values import LinkStatus, VfRules

_DEFAULTS: Mapping[str, Any] = {n: f.default for n, f in VfRules.model_fields.items()}
"""Given to model_construct, which would copy each of them deeply."""
_CLOSED = {**_DEFAULTS, "link_status": LinkStatus.OFF}


def write_rules(
    surfaces: Sequence[Surface], changes: Mapping[int, tuple[VfRules | None, VfRules | None]]
) -> None:
    """Makes VFs go from rules to rules (None: closed), all or none. Raises NicError.

    VFs that close do so from the weakest surface on, which has the link; the others change and
    open from the strongest on, so that a VF's link comes up when its filters are there. A VF whose
    tagging goes from one surface to another is closed in between: the drivers refuse two at once,
    and neither would filter for a moment.
    """
    parts = {
        vfid: (assignments(before, surfaces), assignments(after, surfaces))
        for vfid, (before, after) in changes.items()
    }
    closed = assignments(None, surfaces)
    closing = {
        vfid
        for vfid, (old, new) in parts.items()
        if changes[vfid][1] is None or (changes[vfid][0] and _tagger(old) != _tagger(new))
    }
    rest = {vfid: new for vfid, (_, new) in parts.items() if changes[vfid][1] is not None}
    try:
        for surface in reversed(surfaces):
            if closing:
                surface.write(dict.fromkeys(sorted(closing), closed[surface.name]))
        for surface in surfaces:
            if rest:
                surface.write({vfid: new[surface.name] for vfid, new in rest.items()})
    except NicError as error:
        try:
            for surface in surfaces:
                surface.write({vfid: old[surface.name] for vfid, (old, _) in parts.items()})
        except NicError as second:
            raise type(second)(f"{error}. Undoing it failed: {second}") from error
        raise


def without_rates(rules: VfRules | None) -> VfRules | None:
    """All of the rules that doesn't need a link that is up."""
    return rules.model_copy(update={"rate": NONE, "min_rate": NONE}) if rules else None


def assignments(rules: VfRules | None, surfaces: Sequence[Surface]) -> Mapping[str, Assignment]:
    """Each surface's part of these rules."""
    parts = {} if rules is None else assign(rules, surfaces)[0]
    return {
        surface.name: Assignment(rules, parts.get(surface.name, frozenset()))
        for surface in surfaces
    }


def _tagger(parts: Mapping[str, Assignment]) -> str | None:
    """The surface that has the VF's VLANs."""
    return next((name for name, part in parts.items() if "vlans" in part.attributes), None)


def merged(shown: Iterable[Shown]) -> VfRules | None:
    """Surfaces' parts, strongest first, as one value. A surface's word holds over a weaker one's
    where it says more than the default; a link that is off with nothing else set is a closed VF."""
    parts = list(shown)
    having_vlans = [part for part in parts if part.get("vlans")]
    # The weakest has the port VLAN. A driver with a trunk list shows a port VLAN in the list too.
    tagging = having_vlans[-1] if having_vlans else None
    whole = dict(_DEFAULTS)
    for part in parts:
        for attribute, value in part.items():
            if attribute in TAGGING and tagging is not None and part is not tagging:
                continue
            if whole[attribute] == _DEFAULTS[attribute]:
                whole[attribute] = value
    if whole == _CLOSED:
        return None
    return VfRules.model_construct(**whole)
