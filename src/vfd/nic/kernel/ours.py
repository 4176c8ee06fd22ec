"""Which of a PF's VFs are vfd's, where others are another manager's."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vfd.nic.kernel.sriov import VfDevice


class Ours:
    """All, until a number of them is named."""

    def __init__(self) -> None:
        self.named: frozenset[int] | None = None

    def are(self, vfids: Collection[int] | None) -> None:
        self.named = None if vfids is None else frozenset(vfids)

    def __contains__(self, vfid: int) -> bool:
        return self.named is None or vfid in self.named

    def of(self, vfs: Iterable[VfDevice]) -> list[VfDevice]:
        return [vf for vf in vfs if vf.vfid in self]
