"""The PF's traffic classes in Intel's interface: ``qos/TC/priority``, ``lsp``, ``max_bw``.

Nothing of them holds before a write to ``qos/apply``, nor can it be read before (i40e 2.28.16,
i40e_set_pf_qos_apply and the show functions of src/kcompat_vfd.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vfd.nic.kernel.attributes import read
from vfd.nic.protocol import NicError
from vfd.policy.values import PfPolicy

MOST_CLASSES = 8
STEP_MBPS = 50
"""Bandwidths are multiples of this; the driver rounds up."""


@dataclass(frozen=True, slots=True)
class TrafficClassFiles:
    """What one class's files say."""

    pcps: tuple[int, ...]
    lsp: bool
    max_mbps: int
    """0: no limit."""


def class_map(root: Path) -> Mapping[int, TrafficClassFiles]:
    """The classes in use; none while the PF has no traffic classes."""
    found = {}
    for tc in range(MOST_CLASSES):
        folder = root / f"qos/{tc}"
        try:
            pcps = tuple(int(pcp) for pcp in read(folder / "priority").split(",") if pcp)
            if pcps:
                found[tc] = TrafficClassFiles(
                    pcps, read(folder / "lsp") == "on", int(read(folder / "max_bw"))
                )
        except (OSError, ValueError):
            continue
    return found


def classes_in_use(root: Path) -> frozenset[int]:
    return frozenset(class_map(root))


def restrictions(pf: PfPolicy, link_mbps: int) -> Mapping[int, TrafficClassFiles]:
    """What the policy's classes are in these files. Raises NicError without a link speed where a
    class has a share of it."""
    stated = {each.pri: each for each in pf.tclasses}
    each_pcps = MOST_CLASSES // pf.classes
    found = {}
    for tc in range(pf.classes):
        percent = stated[tc].max_bw if tc in stated else 100
        if percent < 100 and not link_mbps:
            raise NicError(
                f"{pf.id}: class {tc} has at most {percent} % of the link, and the link has no"
                " speed now: bring it up"
            )
        mbps = -(-link_mbps * percent // (100 * STEP_MBPS)) * STEP_MBPS if percent < 100 else 0
        pcps = tuple(range(tc * each_pcps, (tc + 1) * each_pcps))
        found[tc] = TrafficClassFiles(pcps, tc in stated and stated[tc].lsp, mbps)
    return found


def are_as_asked(classes: Mapping[int, TrafficClassFiles], pf: PfPolicy, link_mbps: int) -> bool:
    """Whether the classes are the policy's; what a share of the link comes to is not looked at
    while the link has no speed."""
    if link_mbps:
        return classes == restrictions(pf, link_mbps)
    wanted = restrictions(pf, STEP_MBPS)
    return _without_limits(classes) == _without_limits(wanted)


def _without_limits(
    classes: Mapping[int, TrafficClassFiles],
) -> Mapping[int, TrafficClassFiles]:
    return {tc: replace(files, max_mbps=0) for tc, files in classes.items()}
