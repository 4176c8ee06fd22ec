"""What a NIC is to enforce: the VFs' configurations, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vfd.config.errors import Problem
from vfd.daemon.callbacks import Owner
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy


@dataclass(frozen=True, slots=True)
class Configured:
    """A VF's configuration and the file that it is from."""

    policy: VfPolicy
    file: str
    """Below ``config_dir``."""
    owner: Owner
    remarks: tuple[str, ...] = ()
    """What reading the file warned of."""
    written: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The file's object, with its own names of fields."""

    @property
    def stated(self) -> frozenset[str]:
        return frozenset(self.policy.model_fields_set)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a NIC is to enforce, checked and worked out."""

    pf: PfPolicy
    vfs: Mapping[int, Configured]
    desired: NicPolicy
    scale: float
    """What guarantees were multiplied with, being more than the link."""
    class_scale: Mapping[int, float]
    """The same for the shares in each traffic class that had more than 100 %."""
    link_bps: int | None
    """The link's speed that shares were worked out for; None: nobody knew it."""
    warnings: Mapping[int | None, tuple[str, ...]]
    """By vfid; None: of the PF."""
    short: Mapping[int, tuple[str, ...]]
    """Those of the warnings that say what the NIC can't enforce."""
    closing: frozenset[int] = frozenset()
    """VFs that lost their configuration and don't show yet that they are closed."""

    def ours(self) -> frozenset[int] | None:
        """The VFs that are vfd's; None: all. Where VFs without a configuration are left, one that
        had one is closed first."""
        if self.pf.unconfigured == "closed":
            return None
        return self.closing.union(vf.vfid for vf in self.desired.vfs)

    def to_close(self, after: NicPolicy, is_closed: Callable[[int], bool]) -> frozenset[int]:
        """The VFs that had a configuration, have none ``after`` and aren't closed."""
        had = self.closing.union(vf.vfid for vf in self.desired.vfs) - after.by_vfid().keys()
        return frozenset(vfid for vfid in had if not is_closed(vfid))

    def settled(self, is_closed: Callable[[int], bool]) -> Aim:
        """The same once VFs that lost their configuration show that they are closed."""
        still = frozenset(vfid for vfid in self.closing if not is_closed(vfid))
        return self if still == self.closing else replace(self, closing=still)

    def without(self, vfid: int) -> Aim:
        """The same for all other VFs, and this one closed. Nothing is judged or worked out anew."""
        others = tuple(vf for vf in self.desired.vfs if vf.vfid != vfid)
        return replace(
            self,
            vfs={v: one for v, one in self.vfs.items() if v != vfid},
            desired=self.desired.model_copy(update={"vfs": others}),
            warnings={v: texts for v, texts in self.warnings.items() if v != vfid},
            short={v: texts for v, texts in self.short.items() if v != vfid},
            closing=self.closing | {vfid},
        )


def surely_out(problems: Iterable[Problem], fresh: Iterable[Configured]) -> set[str]:
    """The new files that break a rule whatever becomes of the other new ones: not those that are in
    conflict only with a file that is refused itself, and so owns nothing. The others are judged
    once more. A conflict is the later file's, so the first of all that are blamed is among them."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.file, []).append(problem)
    out: set[str] = set()
    refused: set[str] = set()
    for one in fresh:
        if any(p.other not in refused for p in found.get(one.file, ())):
            out.add(one.file)
            refused.add(one.policy.name)
    return out
