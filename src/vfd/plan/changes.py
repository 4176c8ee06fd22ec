"""Changes to a NIC, as values with inverses."""

from __future__ import annotations

from dataclasses import dataclass

from vfd.policy.values import PfPolicy, VfRules


@dataclass(frozen=True, slots=True)
class PfChange:
    """The PF's own attributes, the number of VFs among them."""

    before: PfPolicy | None
    after: PfPolicy
    force: bool = False
    """VFs may be taken from guests that hold them."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The attributes that differ."""
        if self.before is None:
            return tuple(PfPolicy.model_fields)
        return tuple(
            f for f in PfPolicy.model_fields if getattr(self.before, f) != getattr(self.after, f)
        )

    def inverse(self) -> PfChange | None:
        """None: there is no going back to "never configured"."""
        return PfChange(self.after, self.before, self.force) if self.before else None


@dataclass(frozen=True, slots=True)
class VfChange:
    """One VF. ``before`` None: it was closed; ``after`` None: it becomes closed."""

    vfid: int
    before: VfRules | None
    after: VfRules | None

    @property
    def fields(self) -> tuple[str, ...]:
        """The attributes that differ; all of them where the VF opens or closes."""
        if self.before is None or self.after is None:
            return tuple(VfRules.model_fields)
        return tuple(
            f for f in VfRules.model_fields if getattr(self.before, f) != getattr(self.after, f)
        )

    def inverse(self) -> VfChange:
        return VfChange(self.vfid, self.after, self.before)


Change = PfChange | VfChange
