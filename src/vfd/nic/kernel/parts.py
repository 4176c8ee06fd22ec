"""A VF's rules in the parts that its PF's surfaces enforce, and those parts as rules again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from vfd.nic.kernel.surface import TAGGING, Assignment, Shown, Surface, takers
from vfd.nic.protocol import NicError, NicGoneError
from vfd.policy.rate import NONE
from vfd.policy.values import LinkStatus, VfRules

_DEFAULT = VfRules()
DEFAULTS: Mapping[str, Any] = {name: getattr(_DEFAULT, name) for name in VfRules.model_fields}
"""Of the attributes of a VF's rules of which none is stated."""

_SHUT = Assignment(None, frozenset({"vm_mac"}))
"""Closed meanwhile: its guest keeps the MAC that it has."""

Parts = Mapping[str, Assignment]
"""By surface."""


def write_rules(
    surfaces: Sequence[Surface],
    assigned: Callable[[VfRules | None], Parts],
    changes: Mapping[int, tuple[VfRules | None, VfRules | None]],
    then: Callable[[], None] | None = None,
) -> None:
    """Makes VFs go from rules to rules (None: closed), ``then`` what belongs to it, all or none.
    Raises NicError.

    VFs that close do so from the weakest surface on, which has the link; the others change and
    open from the strongest on, so that a VF's link comes up when its filters are there. A VF whose
    tagging goes from one surface to another is closed in between: the drivers refuse two at once,
    and neither would filter for a moment.
    """
    closed = assigned(None)
    rest = {vfid: assigned(after) for vfid, (_, after) in changes.items() if after is not None}
    closing = changes.keys() - rest.keys()
    if len(surfaces) > 1:
        closing |= {
            vfid
            for vfid, new in rest.items()
            if changes[vfid][0] and _tagger(assigned(changes[vfid][0])) != _tagger(new)
        }
    try:
        for surface in reversed(surfaces):
            if closing:
                surface.write(
                    {v: _SHUT if v in rest else closed[surface.name] for v in sorted(closing)}
                )
        for surface in surfaces:
            if rest:
                surface.write({vfid: new[surface.name] for vfid, new in rest.items()})
        if then is not None:
            then()
    except NicGoneError:
        raise
    except NicError as error:
        try:
            put_back(surfaces, assigned, {vfid: old for vfid, (old, _) in changes.items()})
        except NicError as second:
            raise type(second)(f"{error}. Undoing it failed: {second}") from error
        raise


def put_back(
    surfaces: Sequence[Surface],
    assigned: Callable[[VfRules | None], Parts],
    rules: Mapping[int, VfRules | None],
) -> None:
    """Makes VFs have the rules that they had; one that takes them no more keeps none of the others
    from them. Raises NicError that names it."""
    failed: list[str] = []
    for surface in surfaces:
        wanted = {vfid: assigned(old)[surface.name] for vfid, old in rules.items()}
        try:
            surface.write(wanted)
        except NicGoneError:
            raise
        except NicError:
            for vfid, old in wanted.items():
                try:
                    surface.write({vfid: old})
                except NicError as error:
                    failed.append(f"VF {vfid}: {error}")
    if failed:
        raise NicError("; ".join(failed))


def without_rates(rules: VfRules | None) -> VfRules | None:
    """All of the rules that doesn't need a link that is up."""
    return rules.model_copy(update={"rate": NONE, "min_rate": NONE}) if rules else None


def assignments(surfaces: Sequence[Surface]) -> Callable[[VfRules | None], Parts]:
    """What gives each surface its part of a VF's rules; it remembers those of many rules."""
    taken = takers(surfaces)

    @lru_cache(maxsize=1024)
    def of(rules: VfRules | None) -> Parts:
        attributes = {} if rules is None else taken(rules)
        return {
            surface.name: Assignment(rules, attributes.get(surface.name, frozenset()))
            for surface in surfaces
        }

    return of


def _tagger(parts: Parts) -> str | None:
    """The surface that has the VF's VLANs."""
    return next((name for name, part in parts.items() if "vlans" in part.attributes), None)


def merged(shown: Iterable[Shown]) -> VfRules | None:
    """Surfaces' parts, strongest first, as one value. A surface's word holds over a weaker one's
    where it says more than the default; a link that is off with nothing else set is a closed VF."""
    parts = list(shown)
    having_vlans = [part for part in parts if part.get("vlans")]
    # The weakest has the port VLAN. A driver with a trunk list shows a port VLAN in the list too.
    tagging = having_vlans[-1] if having_vlans else None
    said: dict[str, Any] = {}
    for part in parts:
        for attribute, value in part.items():
            if attribute in TAGGING and tagging is not None and part is not tagging:
                continue
            if attribute not in said and value != DEFAULTS[attribute]:
                said[attribute] = value
    if said == {"link_status": LinkStatus.OFF}:
        return None
    return _DEFAULT.model_copy(update=said)
