"""From one table of flower rules to another, one rule at a time. Pure.

At each step every frame meets what the old table did with it, or what the new one will, or is
dropped. That holds because

* a frame passes the rules of one port only, that at which it came in;
* in a chain whose new rules are added, the first of them first, before its old ones are removed,
  the last of them first, the first rule that matches is the old table's first or the new table's
  first: whichever it is, the frame's fate is that table's;
* a port of which more than one chain changes is shut for the time, so that no frame is judged by
  the old table's source check and the new table's VLANs. Such a port is that of a VF whose own
  policy changes; a change of another VF's touches the switch chain alone, and shuts nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vfd.nic.kernel.flower import WIRE, Drop, Match, Place, Rule, Rules
from vfd.nic.kernel.switchdev_compile import FIRST_OVERFLOW, GATE, SOURCE
from vfd.nic.kernel.switchdev_record import RECORD

SHUT = (Drop(),)


@dataclass(frozen=True, slots=True)
class Put:
    """Add the rule, or have it take the place of the one that stands there."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Remove:
    place: Place


Step = Put | Remove


def steps(old: Rules, new: Rules) -> list[Step]:
    """The way from ``old`` to ``new``."""
    put = [place for place, actions in new.items() if old.get(place) != actions]
    put.sort(key=lambda place: place.pref)
    gone = [place for place in old if place not in new]
    gone.sort(key=lambda place: -place.pref)
    changed: dict[int, set[int]] = defaultdict(set)
    for place in (*put, *gone):
        if place.chain < FIRST_OVERFLOW:
            changed[place.port].add(place.chain)
    shut = [
        gate_of(port)
        for port, chains in changed.items()
        if port != WIRE and len(chains) > 1 and gate_of(port) not in old
    ]
    new_ones = _puts(new, (place for place in put if _is_overflow(place)))
    standing = _puts(new, (place for place in put if not _is_overflow(place)))
    gates = {gate_of(port) for port in changed}
    return [
        *(Put(Rule(gate, SHUT)) for gate in shut),
        *new_ones,
        *standing,
        *(Remove(place) for place in gone if not _is_overflow(place) and place not in gates),
        *(Remove(place) for place in (*shut, *(place for place in gone if place in gates))),
        *(Remove(place) for place in gone if _is_overflow(place)),
    ]


def software_ports(rules: Rules, offloaded: Collection[Place]) -> frozenset[int]:
    """The ports whose rules the CPU runs: those with one that the NIC did not take. Notes are no
    business of the NIC's."""
    return frozenset(
        place.port for place in rules if place.chain != RECORD and place not in offloaded
    )


def to_software(rules: Rules, offloaded: Collection[Place], ports: Collection[int]) -> list[Rule]:
    """The rules of ``ports`` that the NIC has, in the order in which to give them to the CPU.

    A frame that meets no rule in the NIC goes on in the CPU, in the chain that it had come to
    (net/sched/cls_api.c, tcf_classify). So the last rules go first: what the NIC still has of a
    chain is its beginning, and no frame passes a rule that it should have met before another."""
    places = [place for place in offloaded if place.port in ports]
    places.sort(key=lambda place: (-place.chain, -place.pref))
    return [Rule(place, rules[place]) for place in places]


def gate_of(port: int) -> Place:
    """Where the rule that shuts a port stands: before all others."""
    return Place(port, SOURCE, GATE, Match())


def _is_overflow(place: Place) -> bool:
    return FIRST_OVERFLOW <= place.chain < RECORD


def _puts(new: Rules, places: Iterable[Place]) -> list[Step]:
    return [Put(Rule(place, new[place])) for place in places]
