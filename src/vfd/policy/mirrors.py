"""Mirrors of one VF put together: what a NIC needs an entry for."""

from __future__ import annotations

from collections.abc import Iterable

from vfd.policy.values import Direction, Mirror


def merged(mirrors: Iterable[Mirror], source: int | None = None) -> tuple[Mirror, ...]:
    """At most one mirror for each target and direction: a frame is copied once to a target.

    ``source``: the VF whose mirrors they are; one to itself is none."""
    wanted: dict[tuple[int, Direction], set[int] | None] = {}
    for mirror in mirrors:
        if mirror.target == source:
            continue
        ways = [mirror.direction]
        if mirror.direction is Direction.ALL:
            ways = [Direction.IN, Direction.OUT]
        for way in ways:
            vids = wanted.setdefault((mirror.target, way), set())
            if not mirror.vlans or vids is None:
                wanted[mirror.target, way] = None
            else:
                vids.update(mirror.vlans)
    merged = []
    for target in sorted({target for target, _ in wanted}):
        found = {
            way: tuple(sorted(wanted[target, way] or ()))
            for way in (Direction.IN, Direction.OUT)
            if (target, way) in wanted
        }
        if len(found) == 2 and found[Direction.IN] == found[Direction.OUT]:
            found = {Direction.ALL: found[Direction.IN]}
        merged += [Mirror(target=target, direction=way, vlans=vids) for way, vids in found.items()]
    return tuple(merged)
