"""A whole PF made of models: the vendor's sysfs (lab/models), the driver's VF operations beside it
(vf_operations.py), and the PCI device's files; opened by the backend as a real one is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kernel.modelled import Modelled, modelled
from tests.kernel.vf_operations import ModelVfs, PfNetdev, PlainVfs, VfOperations

from vfd.nic.kernel.discovery import find_surfaces
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.kernel.sriov import PciPf, VfDevice
from vfd.policy.values import PfPolicy

ADDRESS = "0000:01:00.0"
UPLINK = "lo"
"""A netdev that every machine has: only its name and its index are looked at."""


@dataclass(frozen=True, slots=True)
class ModelPf(PciPf):
    """The PF's folder in sysfs. The VFs are numbers, held by nobody."""

    folder: Path = Path()

    @property
    def path(self) -> Path:
        return self.folder

    def vfs(self, only: Collection[int] | None = None) -> tuple[VfDevice, ...]:
        vfids = range(self.num_vfs()) if only is None else sorted(only)
        return tuple(
            VfDevice(vfid, f"0000:01:02.{vfid}", "", "", None, None, None) for vfid in vfids
        )


@dataclass(frozen=True, slots=True)
class ModelledPf:
    """A PF to be opened; ``netdev`` sees what is asked of it through netlink."""

    device: ModelPf
    netdev: PfNetdev

    def open(self, pf: PfPolicy) -> KernelNic:
        return KernelNic(pf, self.device, find_surfaces, self.netdev)


@contextmanager
def modelled_pf(
    vendor: str, *options: str, vfs: int = 4, driver: str = ""
) -> Iterator[tuple[ModelledPf, Modelled]]:
    """A PF whose driver offers the vendor's sysfs."""
    name = driver or {"intel": "i40e", "mellanox": "mlx5_core"}[vendor]
    with modelled(vendor, *options, vfs=vfs) as model, TemporaryDirectory() as folder:
        device = _device(Path(folder), name)
        (device.path / "sriov").symlink_to(model.root)
        (device.path / "sriov_numvfs").symlink_to(model.root / ".model/numvfs")
        yield ModelledPf(device, PfNetdev(ModelVfs(model.root))), model


@contextmanager
def plain_pf(driver: str, operations: PlainVfs) -> Iterator[ModelledPf]:
    """A PF whose driver offers rtnetlink's VF operations alone."""
    with TemporaryDirectory() as folder:
        device = _device(Path(folder), driver)
        (device.path / "sriov_numvfs").write_text(f"{len(operations.seen)}\n")
        taken: VfOperations = operations
        yield ModelledPf(device, PfNetdev(taken))


def _device(folder: Path, driver: str) -> ModelPf:
    path = folder / "bus" / "devices" / ADDRESS
    (path / "net" / UPLINK).mkdir(parents=True)
    (path / "net" / UPLINK / "speed").write_text("10000\n")
    (path / "driver").symlink_to(f"/sys/bus/pci/drivers/{driver}")
    (path / "sriov_totalvfs").write_text("64\n")
    (path / "sriov_drivers_autoprobe").write_text("1\n")
    (path / "vendor").write_text("0x8086\n")
    (path / "device").write_text("0x1572\n")
    return ModelPf(ADDRESS, path)
