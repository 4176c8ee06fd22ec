"""NVIDIA/Mellanox OFED's VGT+: ``/sys/class/net/PF/device/sriov/N/trunk``, ConnectX-4 and later.

In legacy mode of the eswitch a VF has a port VLAN (VST, rtnetlink's), or a list of VLANs that its
guest may tag (VGT+, this surface's), or neither; the driver refuses one while there is the other.
VLAN 0 in the list lets untagged frames pass. The interface's other files set what rtnetlink sets
too, and are left to it, one message for all VFs: also the port VLAN with 802.1ad, which this driver
takes there (mlx5e_set_vf_vlan), and the counters of ``stats``, which IFLA_VF_STATS has as well.

Sources: MLNX_OFED documentation, "Single Root IO Virtualization (SR-IOV)", VGT+; mlx5's
sriov_sysfs.c in MLNX_OFED; the VGT+ patches on netdev, 2019-10-30.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vfd.nic.kernel.attributes import Write, folders_below, read, run, runs, vf_numbers
from vfd.nic.kernel.surface import TAGGING, Assignment, Shown
from vfd.nic.protocol import Capability, NicError, NicGoneError, Support
from vfd.policy.values import C_TAG, S_TAG, VfRules

NAME = "sysfs:mlx5"
UNTAGGED = 0
"""The VID that stands for untagged frames in a trunk list."""


OFFERS: Mapping[str, Capability] = dict.fromkeys(
    TAGGING - {"strip_stag", "strip_ctag", "pcp"},
    Capability(Support.LIMITED, by=NAME, limit="C-tags that the guest tags itself (VGT+)"),
)
"""What VGT+ enforces."""


class MlxSysfs:
    """The surface. ``root``: the PF's ``device/sriov``."""

    name = NAME

    def __init__(self, root: Path) -> None:
        self._root = root
        self.look()

    def look(self) -> None:
        self._offers = OFFERS if self.present() else {}

    def present(self) -> bool:
        """Whether the driver offers the interface now; the kernel's own mlx5 does not."""
        return any((self._root / f"{vfid}/trunk").exists() for vfid in vf_numbers(self._root)[:1])

    def folders(self) -> list[Path]:
        return folders_below(self._root)

    def capabilities(self) -> Mapping[str, Capability]:
        return self._offers

    def port_tpid(self, vfid: int) -> int:
        """The TPID of the VF's port VLAN, which rtnetlink doesn't tell. Raises NicError."""
        path = self._root / f"{vfid}/config"
        try:
            lines = dict(line.split(":", 1) for line in read(path).splitlines() if ":" in line)
        except OSError as error:
            raise NicError(f"{path}: {error}") from error
        found = {name.strip(): value.strip() for name, value in lines.items()}
        return S_TAG if found.get("VLAN Proto") == "802.1ad" else C_TAG

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        if rules.strip_stag or rules.strip_ctag:
            reason = "VGT+ neither strips nor inserts tags: name one VLAN, which is a port VLAN"
            return dict.fromkeys(TAGGING, Capability(Support.ABSENT, reason=reason))
        if not rules.vlans and not rules.allow_untagged:
            reason = "VGT+ with an empty list lets every VLAN pass: name at least one"
            return dict.fromkeys(TAGGING, Capability(Support.ABSENT, reason=reason))
        if not rules.vlan_anti_spoof:
            reason = "VGT+ checks the VLAN of every frame, both ways"
            return {"vlan_anti_spoof": Capability(Support.ABSENT, reason=reason)}
        return {}

    def express(self, assigned: Assignment) -> Shown:
        return _shown(_trunk(assigned))

    def read(self) -> Mapping[int, Shown]:
        return {vfid: _shown(trunk) for vfid, trunk in self._trunks().items()}

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        if not self.present():
            return  # the kernel's own mlx5: nothing was assigned to this surface
        before = self._trunks()
        if missing := wanted.keys() - before.keys():
            raise NicError(
                f"{self._root}: no VF {', '.join(map(str, sorted(missing)))};"
                f" the driver shows {len(before)}"
            )
        after = {vfid: _trunk(assigned) for vfid, assigned in wanted.items()}
        try:
            self._write(before, after)
        except NicError:
            now = self._trunks()
            self._write(now, {vfid: before[vfid] for vfid in after})
            raise

    def _write(
        self, now: Mapping[int, frozenset[int]], after: Mapping[int, frozenset[int]]
    ) -> None:
        run(
            write
            for vfid, trunk in after.items()
            for write in _edits(self._root / f"{vfid}/trunk", now[vfid], trunk)
        )

    def _trunks(self) -> Mapping[int, frozenset[int]]:
        """Every VF's list, empty where it has none."""
        try:
            return {
                vfid: _parse(read(self._root / f"{vfid}/trunk")) for vfid in vf_numbers(self._root)
            }
        except FileNotFoundError as error:
            raise NicGoneError(f"{error.filename}: it is not there any more") from error
        except (OSError, ValueError) as error:
            raise NicError(f"{self._root}: {error}") from error


def _trunk(assigned: Assignment) -> frozenset[int]:
    rules = assigned.rules
    if rules is None or "vlans" not in assigned.attributes:
        return frozenset()
    return frozenset(rules.vlans) | ({UNTAGGED} if rules.allow_untagged else frozenset())


def _edits(path: Path, now: frozenset[int], after: frozenset[int]) -> Iterator[Write]:
    """New VLANs first: a list that is empty for a moment would let every VLAN pass."""
    for first, last in runs(after - now):
        yield Write(path, f"add {first} {last}")
    if now and not after:
        yield Write(path, f"rem {min(now)} {max(now)}")
        return
    for first, last in runs(now - after):
        yield Write(path, f"rem {first} {last}")


def _parse(text: str) -> frozenset[int]:
    """``Allowed 802.1Q VLANs: 0 10 11``, or nothing."""
    return frozenset(int(vid) for vid in text.partition(":")[2].split())


def _shown(trunk: frozenset[int]) -> Shown:
    if not trunk:
        return {}
    return {
        "vlans": tuple(sorted(trunk - {UNTAGGED})),
        "allow_untagged": UNTAGGED in trunk,
        "vlan_anti_spoof": True,
        "strip_stag": False,
        "strip_ctag": False,
    }
