"""Who may have how much of a link: the numbers of the shaper's trees. Pure.

A tree's rates are what is anybody's own; what is lent beyond that goes round by quantum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vfd.policy.values import PfPolicy, TrafficClass

GSO = 70_000
"""The largest buffer that a guest sends at once, with room, in bytes: a smaller burst stops it. And
the least quantum: HTB sends a buffer in each round however large it is, and the debt that this
leaves (``deficit`` in net/sched/sch_htb.c, an int) would grow until it overflows."""
_ROUND = 20
"""A VF may send a twentieth of a second's worth in one round, where the shares ask for so much."""

_Key = TypeVar("_Key")


def traffic_classes(pf: PfPolicy) -> tuple[TrafficClass, ...]:
    """The PF's classes; 4 equal ones where it states none."""
    return pf.tclasses or tuple(TrafficClass(pri=pri) for pri in range(4))


def fill(
    total: float,
    floors: Mapping[_Key, float],
    weights: Mapping[_Key, float],
    most: float | None = None,
) -> dict[_Key, float]:
    """Divides ``total`` in proportion to ``weights``, but gives nobody less than their floor.

    ``most``: what one unit of weight gets at most; what then remains is left undivided. Floors that
    add up to more than ``total`` divide it, and below 0 it is nothing."""
    total = max(0.0, total)
    wanted = sum(floors.values())
    if wanted > total:
        floors = {key: floor * total / wanted for key, floor in floors.items()}
    held: dict[_Key, float] = {}
    while True:
        free = sum(weight for key, weight in weights.items() if key not in held)
        unit = max(0.0, total - sum(held.values())) / free if free else 0.0
        if most is not None:
            unit = min(unit, most)
        below = {
            key: floor
            for key, floor in floors.items()
            if key not in held and floor > unit * weights.get(key, 0.0)
        }
        if not below:
            return {key: held.get(key, unit * weight) for key, weight in weights.items()}
        held |= below


def of_classes(
    pf: PfPolicy, link_bps: int, floors: Mapping[int, float], reserved: int = 0
) -> dict[int, float]:
    """Class → the bandwidth that is its own when all are busy, bits per second; together they are
    at most the link but for what is ``reserved``. ``floors``: what VFs are guaranteed in a class,
    together.

    Nobody has less than ``min_bw`` and the floor. What that leaves goes to the classes that are
    strict over the link, the larger ``pri`` first, then to the others in proportion to ``min_bw``,
    those without a ``min_bw`` sharing evenly what is not spoken for. In a group it goes to
    those of its classes that are strict in it."""
    classes = {c.pri: c for c in traffic_classes(pf)}
    most = {pri: link_bps * c.max_bw / 100 for pri, c in classes.items()}
    least = {
        pri: max(link_bps * c.min_bw / 100, min(most[pri], floors.get(pri, 0.0)))
        for pri, c in classes.items()
    }
    owned: dict[int, float] = {}
    left = link_bps - reserved - sum(least.values())
    for pri in sorted((p for p, c in classes.items() if c.lsp), reverse=True):
        more = max(0.0, min(left, most[pri] - least[pri]))
        owned[pri] = least[pri] + more
        left -= more
    shared = [c for c in classes.values() if not c.lsp]
    spoken = sum(c.min_bw for c in shared)
    silent = sum(1 for c in shared if not c.min_bw) or 1
    weights = {c.pri: float(c.min_bw or max(0, 100 - spoken) / silent) for c in shared}
    rest = link_bps - reserved - sum(owned.values())
    filled = fill(rest, {c.pri: least[c.pri] for c in shared}, weights)
    owned |= {pri: min(bps, most[pri]) for pri, bps in filled.items()}
    for group in pf.bw_grps:
        members = [p for p in group.classes if p in classes and not classes[p].lsp]
        strict = sorted((p for p in members if classes[p].bsp), reverse=True)
        if strict:
            left = sum(owned[p] - least[p] for p in members)
            owned |= {p: least[p] for p in members}
            for pri in strict:
                more = max(0.0, min(left, most[pri] - least[pri]))
                owned[pri] += more
                left -= more
    return owned


def quanta(
    weights: Mapping[int, Mapping[int, float]], rates: Mapping[int, float], link_bps: int
) -> dict[tuple[int, int], int]:
    """The quantum of each leaf, in bytes, by class and vfid, from the VFs' weights in each class
    and the classes' rates.

    Exactly in proportion within a class as long as the largest is no more than a round's worth;
    between classes as the rates are, as far as that leaves room."""
    spread = {
        pri: max(shares.values()) / min(shares.values())
        for pri, shares in weights.items()
        if shares
    }
    heaviest = max(rates.values())
    lightest = min((rates[pri] for pri in spread), default=1.0) or 1.0
    most = max(10 * GSO, link_bps // 8 // _ROUND)
    found: dict[tuple[int, int], int] = {}
    for pri, ratio in spread.items():
        wanted = GSO * ratio * rates[pri] / lightest
        room = max(GSO * ratio, most * rates[pri] / heaviest)
        top = min(wanted, room, most)
        largest = max(weights[pri].values())
        unit = top / largest
        for vfid, share in weights[pri].items():
            found[pri, vfid] = max(GSO, round(unit * share))
    return found
