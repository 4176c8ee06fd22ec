"""What all guarantees of a PF together need of its link: docs/semantics.md, "Rates and traffic
classes".

A guest sends in whichever classes it likes. Where classes state how much of the link is theirs, a
VF's guarantee has to be there in each class that the VF has a share of, beside what the
other classes are guaranteed (``min_bw``), and within ``max_bw``. Where they don't, it is the VF's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from vfd.policy.values import PfPolicy

Uses = Mapping[int, Collection[int]]
"""By class: the VFs that have a share of it. Of a PF without classes nothing."""


def in_each_class(pf: PfPolicy) -> bool:
    """Whether a guarantee has to be there in each class by itself."""
    return pf.enable_qos and any(tc.min_bw or tc.max_bw < 100 for tc in pf.tclasses)


def needed(pf: PfPolicy, link: float, parts: Mapping[int, float], uses: Uses) -> float:
    """How much of ``link`` the VFs' guarantees (``parts``, by vfid) need, in its unit; in a class
    no more than its ``max_bw``."""
    if not in_each_class(pf):
        return sum(parts.values())
    in_classes = 0.0
    for pri, least, most in _classes(pf, link, uses):
        part = sum(part for vfid, part in parts.items() if vfid in uses[pri])
        in_classes += max(least, min(most, part))
    return max(sum(parts.values()), in_classes)


def scale(pf: PfPolicy, link: int, parts: Mapping[int, int], uses: Uses) -> tuple[int, int]:
    """The largest factor, at most 1, with which the guarantees fit the link: as a fraction."""
    found = min(link, sum(parts.values())), sum(parts.values()) or 1
    if not in_each_class(pf):
        return found if found[0] < found[1] else (1, 1)
    classes = [
        (least, sum(part for vfid, part in parts.items() if vfid in uses[pri]))
        for pri, least, _ in _classes(pf, link, uses)
    ]
    # scaled so far, a class needs its own min_bw and no more: which ones is tried one by one
    classes.sort(key=lambda one: one[0] / (one[1] or 1))
    for number in range(1, len(classes) + 1):
        wanted = sum(part for _, part in classes[:number])
        room = max(0, int(link - sum(least for least, _ in classes[number:])))
        if wanted and room * found[1] < found[0] * wanted:
            found = room, wanted
    return found if found[0] < found[1] else (1, 1)


def _classes(pf: PfPolicy, link: float, uses: Uses) -> list[tuple[int, float, float]]:
    """Each class with its ``min_bw`` and ``max_bw``, as parts of the link."""
    stated = {tc.pri: (tc.min_bw, tc.max_bw) for tc in pf.tclasses}
    bounds = {pri: stated.get(pri, (0, 100)) for pri in uses}
    return [(pri, link * least / 100, link * most / 100) for pri, (least, most) in bounds.items()]
