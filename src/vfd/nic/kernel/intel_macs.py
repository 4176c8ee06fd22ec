"""Whose the further MACs of i40e's VFs are: ``mac_list`` shows what vfd listed and what guests
asked the driver for alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from vfd.nic.kernel.intel_files import VfFiles
from vfd.policy.values import VfRules

Macs = frozenset[str]


class ListedMacs:
    """By VF, the MACs that are vfd's to take back: those that it found and those that it listed.

    MACs that were found may be a guest's. A policy lets its guest have them (``guest_macs: any``,
    all that this driver enforces), so that a daemon that starts takes none from it, unless the MAC
    is another VF's now or the VF is closed.
    """

    def __init__(self) -> None:
        self._ours: dict[int, Macs] = {}
        self._found: set[int] = set()
        """VFs that were not written to yet."""

    def find(self, vfs: Mapping[int, VfFiles]) -> None:
        """VFs as they are before they are written to."""
        new = vfs.keys() - self._ours.keys()
        self._ours |= {vfid: vfs[vfid].macs for vfid in new}
        self._found |= new

    def own(self, vfid: int, files: VfFiles, further: Macs = frozenset()) -> VfFiles:
        """The files without the guest's MACs; ``further``: more that are vfd's."""
        return replace(files, macs=files.macs & (self._ours[vfid] | further))

    def leave_to_guests(
        self, vfs: Mapping[int, VfFiles], wanted: Mapping[int, VfRules | None]
    ) -> None:
        """Before these rules are written to VFs that are as ``vfs``: what is none of ours."""
        for vfid in self._found & wanted.keys():
            rules = wanted[vfid]
            if rules is not None and vfs[vfid].enable:
                others = {mac for v, files in vfs.items() if v != vfid for mac in files.macs}
                others |= {mac for v, to in wanted.items() if v != vfid for mac in _macs(to)}
                self._ours[vfid] &= others.union(rules.macs)

    def list(self, after: Mapping[int, Macs]) -> None:
        """What is going to be listed is ours to take back."""
        for vfid, macs in after.items():
            self._ours[vfid] |= macs

    def listed(self, after: Mapping[int, Macs]) -> None:
        """What was listed, and nothing else, is ours."""
        self._ours |= after
        self._found -= after.keys()

    def of(self, vfids: Iterable[int]) -> Mapping[int, Macs]:
        return {vfid: self._ours[vfid] for vfid in vfids}

    def undo(self, before: Mapping[int, Macs]) -> None:
        """The write failed; what was ``of`` these VFs is again."""
        self._ours |= before


def _macs(rules: VfRules | None) -> tuple[str, ...]:
    if rules is None:
        return ()
    return (*rules.macs, rules.vm_mac) if rules.vm_mac else rules.macs
