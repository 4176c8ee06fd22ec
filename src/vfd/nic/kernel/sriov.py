"""The kernel's SR-IOV core in sysfs: how many VFs there are, where they are and who holds them.

Rule source: the kernel's Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/iov.c.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vfd.nic.kernel.patience import PATIENCE, patiently
from vfd.nic.protocol import Link, NicError, NicGoneError
from vfd.policy.addresses import canonical_device, is_netdev_name, is_pci_address

PCI_DEVICES = Path("/sys/bus/pci/devices")
DRIVERS = Path("/sys/bus/pci/drivers")
NETDEVS = Path("/sys/class/net")
_OTHERS = re.compile("pf|vf|sf")
"""In ``phys_port_name``: a representor of another function, as ``pf0vf3``, ``pf0sf88`` (a
subfunction) or ``c1pf0`` (net/devlink/port.c, devlink_nl_phys_port_name). The uplink is ``p0``."""


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
    """Interrupt vectors the VF has: the size of its MSI-X table."""


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
        return link_name(self.path / "driver")

    def numa_node(self) -> int | None:
        node = _number(self.path / "numa_node")
        return node if node is not None and node >= 0 else None

    def netdevs(self) -> tuple[str, ...]:
        """The PF's netdevs: one, but for representors in switchdev mode."""
        try:
            return tuple(sorted(entry.name for entry in (self.path / "net").iterdir()))
        except OSError:
            return ()

    def has_netdevs(self) -> bool:
        """Whether it has netdevs in any network namespace, whose folder is there also where this
        namespace's sysfs shows nothing in it (kernel net/core/net-sysfs.c)."""
        return (self.path / "net").exists()

    def uplink(self) -> tuple[str, int]:
        """The name and ifindex of the PF's own netdev. Raises NicGoneError where it has none."""
        for name in self.netdevs():
            port = _text(NETDEVS / name / "phys_port_name")
            index = _number(NETDEVS / name / "ifindex")
            if not _OTHERS.search(port) and index is not None:
                return name, index
        driver = self.driver()
        raise NicGoneError(
            f"{self.address}: its driver is {driver or 'none'}, and it has no netdev here: bind it"
            " to its kernel driver, or choose the dpdk backend"
        )

    def link(self, netdev: str) -> Link:
        """The wire's link, as the PF's netdev shows it."""
        up = _text(NETDEVS / netdev / "operstate") in ("up", "unknown")
        speed = _number(NETDEVS / netdev / "speed") if up else None
        return Link(up, speed * 10**6 if speed is not None and speed > 0 else None)

    def vf_total_msix(self) -> int | None:
        """``sriov_vf_total_msix``: interrupt vectors that VFs can be given, all together; None
        where the driver lets nobody choose."""
        return _number(self.path / "sriov_vf_total_msix")

    def total_vfs(self) -> int:
        """``sriov_totalvfs``: how many VFs the driver allows; 0 where it has no SR-IOV."""
        return _number(self.path / "sriov_totalvfs") or 0

    def num_vfs(self) -> int:
        """How many VFs there are. Raises NicError where somebody is changing that and waits."""
        path = self.path / "sriov_numvfs"
        return patiently(f"reading {path}", lambda: _number(path) or 0)

    def ids(self) -> tuple[str, str]:
        """Vendor and device ID, like ``("8086", "10c9")``."""
        return _hex(self.path / "vendor"), _hex(self.path / "device")

    def vfs(self, only: Collection[int] | None = None) -> tuple[VfDevice, ...]:
        """The VFs that exist now, or those of them that are asked for, by vfid."""
        found = []
        for vfid in range(self.num_vfs()) if only is None else sorted(only):
            link = self.path / f"virtfn{vfid}"
            try:
                address = link.readlink().name
            except OSError:
                continue
            found.append(_vf(vfid, address))
        return tuple(found)

    def vfid_of(self, address: str) -> int | None:
        """The vfid of the VF at this address; None where it is no VF of this PF."""
        for link in self.path.glob("virtfn*"):
            if link_name(link) == address:
                return int(link.name.removeprefix("virtfn"))
        return None

    def set_num_vfs(self, count: int) -> None:
        """Makes the PF have ``count`` VFs. From one count to another goes through 0
        (``sriov_numvfs_store`` gives EBUSY otherwise), which takes every VF from its guest: the
        caller has made sure that no guest holds one, and has what is needed to lead back.

        Raises NicError, perhaps with no VFs left; NicGoneError.
        """
        now = self.num_vfs()
        if count == now:
            return
        # Drivers bind to new VFs one after the other.
        seconds = PATIENCE + 2 * max(now, count)
        if now and count:
            self._write_count(0, seconds)
        self._write_count(count, seconds)

    def set_autoprobe(self, on: bool) -> None:
        """Whether the host's drivers bind to new VFs (``sriov_drivers_autoprobe``)."""
        write(self.path / "sriov_drivers_autoprobe", "1" if on else "0")

    def vfs_are_functions(self) -> bool:
        """Whether drivers bind to the VFs, which then are PCI functions."""
        return (self.path / "sriov_drivers_autoprobe").exists()

    def _write_count(self, count: int, seconds: float) -> None:
        try:
            write_patiently(self.path / "sriov_numvfs", str(count), seconds)
        except NicError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.ERANGE:
                raise NicError(
                    f"{self.address}: {count} VFs asked for, but the NIC and its driver allow"
                    f" {self.total_vfs()}"
                ) from cause
            raise
        # Drivers may say yes to a count and have another (drivers/pci/iov.c only logs it).
        if (found := self.num_vfs()) != count:
            why = (
                " (bnxt_en changes the number of VFs only while its netdev is up)"
                if self.driver() == "bnxt_en"
                else ""
            )
            raise NicError(
                f"{self.address}: {count} VFs asked for, but its driver left it at {found}: the"
                f" kernel's log says why{why}"
            )


def find_pf(name: str) -> PciPf:
    """The PF named by PCI address or by netdev name.

    Raises NicGoneError where there is none, NicError where it is no PCI device.
    """
    if is_pci_address(name.lower()):
        pf = PciPf(canonical_device(name))
        if not pf.exists():
            raise NicGoneError(f"{name}: no PCI device at that address")
        return _no_vf(name, pf)
    if not is_netdev_name(name):
        raise NicGoneError(f"{name!r}: neither a PCI address nor the name of a netdev")
    try:
        device = (NETDEVS / name / "device").resolve(strict=True)
    except OSError as error:
        raise NicGoneError(f"{name}: no netdev of that name with a device behind it") from error
    # A virtio netdev's device is one on the virtio bus, whose parent is the PCI function.
    for function in (device, *device.parents):
        if is_pci_address(function.name):
            return _no_vf(name, PciPf(function.name))
    raise NicError(f"{name}: its device {device.name} is not a PCI function")


def _no_vf(name: str, pf: PciPf) -> PciPf:
    if physical := link_name(pf.path / "physfn"):
        raise NicError(f"{name} is a VF of {physical}: name that one in pciids")
    return pf


def bind(address: str, driver: str) -> None:
    """Binds a PCI function to ``driver`` by ``driver_override``; '' lets the kernel choose.

    Raises NicError with the driver and the override that were there before, or saying that they
    could not be put back.
    """
    path = PCI_DEVICES / address
    old, override = link_name(path / "driver"), override_of(address)
    if old == driver and driver:
        return
    if driver and not (DRIVERS / driver).exists():
        raise NicError(f"{address}: there is no driver {driver}: load its module (modprobe)")
    try:
        _rebind(address, old, driver)
        bound = link_name(path / "driver")
        if driver and bound != driver:
            raise NicError(f"{address}: asked for driver {driver}, found {bound or 'none'}")
    except NicError as error:
        try:
            _rebind(address, link_name(path / "driver"), old)
            set_override(address, override)
        except NicError as second:
            raise NicError(
                f"{error}. Going back to {old or 'no driver'} failed: {second}"
            ) from error
        raise


def _rebind(address: str, old: str, new: str) -> None:
    """Takes the function from its driver and lets ``new`` have it, or whichever matches."""
    set_override(address, new)
    if old:
        write_patiently(DRIVERS / old / "unbind", address)
    probe(address)


def override_of(address: str) -> str:
    """The one driver that may have the function (``driver_override``); '': whichever matches."""
    text = _text(PCI_DEVICES / address / "driver_override")
    return "" if text == "(null)" else text


def set_override(address: str, driver: str) -> None:
    """See ``override_of``. Raises NicError."""
    write(PCI_DEVICES / address / "driver_override", driver or "\n")


def probe(address: str) -> None:
    """Lets the kernel bind a function that has no driver. Raises NicError."""
    write_patiently(DRIVERS.parent / "drivers_probe", address)


def write_patiently(path: Path, text: str, seconds: float = PATIENCE) -> None:
    """As ``write``, for an attribute that takes a device from its driver or gives it one."""
    patiently(f"writing {text} to {path}", lambda: write(path, text), seconds)


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
    try:
        group, node, msix = _facts(path, path.stat().st_ino, _inode(path / "driver"))
    except OSError:
        group, node, msix = None, None, None
    return VfDevice(
        vfid=vfid,
        address=address,
        driver=link_name(path / "driver"),
        netdev=netdevs[0] if netdevs else "",
        iommu_group=group,
        numa_node=node,
        msix=msix,
    )


@lru_cache(maxsize=1024)
def _facts(path: Path, inode: int, driver: int) -> tuple[int | None, int | None, int | None]:  # noqa: ARG001
    """IOMMU group, NUMA node and interrupt vectors of a function, which hold while it lives and
    its driver has it: the inodes of its folder and of the link to the driver are others when they
    are made again. Between drivers ``sriov_vf_msix_count`` may change the vectors."""
    group = link_name(path / "iommu_group")
    node = _number(path / "numa_node")
    return (
        int(group) if group.isdigit() else None,
        node if node is not None and node >= 0 else None,
        _msix(path / "config"),
    )


def _msix(config: Path) -> int | None:
    """The size of a function's MSI-X table, from its capability (PCI Local Bus 3.0, 6.8.2)."""
    try:
        with config.open("rb", buffering=0) as file:
            space = file.read(256)  # each byte more is a read from the device
    except OSError:
        return None
    at = space[0x34] if len(space) == 256 else 0
    for _ in range(48):  # a broken list must not hold us up
        if not 0x40 <= at <= 0xFC:
            break
        if space[at] == 0x11:
            return (int.from_bytes(space[at + 2 : at + 4], "little") & 0x7FF) + 1
        at = space[at + 1]
    return None


def _inode(link: Path) -> int:
    try:
        return link.lstat().st_ino
    except OSError:
        return 0


def link_name(link: Path) -> str:
    """What a link of sysfs points to, by its last name; '' where it is not there."""
    try:
        return link.readlink().name
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _hex(path: Path) -> str:
    return _text(path).removeprefix("0x")
