"""The kernel's SR-IOV core in sysfs: how many VFs there are, where they are and who holds them.

Rule source: the kernel's Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/iov.c.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.protocol import NicError, NicGoneError

PCI_DEVICES = Path("/sys/bus/pci/devices")
_ADDRESS = re.compile(r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")


@dataclass(frozen=True, slots=True)
class VfDevice:
    """One VF as the PCI core shows it."""

    vfid: int
    address: str
    driver: str
    """The driver it is bound to; '' where none is."""
    netdev: str
    """Its netdev in this network namespace; '' where it has none here."""
    iommu_group: int | None
    numa_node: int | None
    msix: int | None
    """Interrupt vectors the VF has (``sriov_vf_msix_count`` where the driver lets it be set)."""


@dataclass(frozen=True, slots=True)
class PciPf:
    """One PF's place in sysfs. Values are read at each call: nothing is remembered."""

    address: str

    @property
    def path(self) -> Path:
        return PCI_DEVICES / self.address

    def exists(self) -> bool:
        return self.path.exists()

    def driver(self) -> str:
        return _link_name(self.path / "driver")

    def numa_node(self) -> int | None:
        node = _number(self.path / "numa_node")
        return node if node is not None and node >= 0 else None

    def netdevs(self) -> tuple[str, ...]:
        """The PF's netdevs: one, but for representors in switchdev mode."""
        try:
            return tuple(sorted(entry.name for entry in (self.path / "net").iterdir()))
        except OSError:
            return ()

    def total_vfs(self) -> int:
        """``sriov_totalvfs``: how many VFs the driver allows; 0 where it has no SR-IOV."""
        return _number(self.path / "sriov_totalvfs") or 0

    def num_vfs(self) -> int:
        return _number(self.path / "sriov_numvfs") or 0

    def ids(self) -> tuple[str, str]:
        """Vendor and device ID, like ``("8086", "10c9")``."""
        return _hex(self.path / "vendor"), _hex(self.path / "device")

    def vfs(self) -> tuple[VfDevice, ...]:
        """The VFs that exist now, by vfid."""
        found = []
        for vfid in range(self.num_vfs()):
            link = self.path / f"virtfn{vfid}"
            try:
                address = link.readlink().name
            except OSError:
                continue
            found.append(_vf(vfid, address))
        return tuple(found)

    def set_num_vfs(self, count: int) -> None:
        """Makes the PF have ``count`` VFs. From one count to another goes through 0
        (``sriov_numvfs_store`` gives EBUSY otherwise), which takes every VF from its guest: the
        caller has made sure that no guest holds one. On failure the old count is put back.

        Raises NicError, NicGoneError.
        """
        now = self.num_vfs()
        if count == now:
            return
        if now and count:
            self._write_count(0)
        try:
            self._write_count(count)
        except NicError:
            if now and count:
                self._write_count(now)
            raise

    def set_autoprobe(self, on: bool) -> None:
        """Whether the host's drivers bind to new VFs (``sriov_drivers_autoprobe``)."""
        write(self.path / "sriov_drivers_autoprobe", "1" if on else "0")

    def _write_count(self, count: int) -> None:
        try:
            write(self.path / "sriov_numvfs", str(count))
        except NicError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.ERANGE:
                raise NicError(
                    f"{self.address}: {count} VFs asked for, but the NIC and its driver allow"
                    f" {self.total_vfs()}"
                ) from cause
            raise


def find_pf(name: str) -> PciPf:
    """The PF named by PCI address or by netdev name.

    Raises NicGoneError where there is none, NicError where it is no PCI device.
    """
    if _ADDRESS.match(name.lower()):
        pf = PciPf(name.lower())
        if not pf.exists():
            raise NicGoneError(f"{name}: no PCI device at that address")
        return pf
    device = Path("/sys/class/net") / name / "device"
    try:
        address = device.resolve(strict=True).name
    except OSError as error:
        raise NicGoneError(f"{name}: no netdev of that name with a device behind it") from error
    if not _ADDRESS.match(address):
        raise NicError(f"{name}: its device {address} is not a PCI function")
    return PciPf(address)


def bind(address: str, driver: str) -> None:
    """Binds a PCI function to ``driver`` by ``driver_override``; '' lets the kernel choose.

    Raises NicError; a function that was bound before is then bound to nothing or to its old
    driver, which the message says.
    """
    path = PCI_DEVICES / address
    old = _link_name(path / "driver")
    if old == driver and driver:
        return
    write(path / "driver_override", driver or "\n")
    if old:
        write(path / "driver" / "unbind", address)
    try:
        write(Path("/sys/bus/pci/drivers_probe"), address)
        bound = _link_name(path / "driver")
        if driver and bound != driver:
            raise NicError(
                f"{address}: asked for driver {driver}, found {bound or 'none'};"
                " is its module loaded?"
            )
    except NicError:
        if old:
            write(path / "driver_override", old)
            write(Path("/sys/bus/pci/drivers_probe"), address)
        raise


def write(path: Path, text: str) -> None:
    """One write(2) to a sysfs attribute. Raises NicError with what was asked and the kernel's
    answer, NicGoneError where the attribute's device is gone."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)
    except OSError as error:
        kind = NicGoneError if error.errno in (errno.ENODEV, errno.ENXIO) else NicError
        raise kind(
            f"writing {text.strip()!r} to {path}: {os.strerror(error.errno or 0)}"
        ) from error


def _vf(vfid: int, address: str) -> VfDevice:
    path = PCI_DEVICES / address
    try:
        netdevs = sorted(entry.name for entry in (path / "net").iterdir())
    except OSError:
        netdevs = []
    group = _link_name(path / "iommu_group")
    node = _number(path / "numa_node")
    return VfDevice(
        vfid=vfid,
        address=address,
        driver=_link_name(path / "driver"),
        netdev=netdevs[0] if netdevs else "",
        iommu_group=int(group) if group.isdigit() else None,
        numa_node=node if node is not None and node >= 0 else None,
        msix=_number(path / "sriov_vf_msix_count"),
    )


def _link_name(link: Path) -> str:
    try:
        return link.readlink().name
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _hex(path: Path) -> str:
    try:
        return path.read_text().strip().removeprefix("0x")
    except OSError:
        return ""
