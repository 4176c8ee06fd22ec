"""Who holds a VF, as far as the host can see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vfd.nic.kernel.sriov import PCI_DEVICES, VfDevice

VFIO = "vfio-pci"


@dataclass(frozen=True, slots=True)
class Guest:
    text: str
    """In words, for listings; '' where nobody has the VF."""
    held: bool
    """Taking the VF away would hurt somebody."""


def guest_of(vf: VfDevice) -> Guest:
    """The VF's driver tells the kind of guest, and the driver's own objects whether it is in use.

    A VF on vfio-pci is held while a process has its group or device open. A VF on a network
    driver is held when its netdev is up here, or is not here: then it is in another namespace,
    whose sysfs shows it (``net`` is namespaced, kernel net/core/net-sysfs.c).
    """
    if not vf.driver:
        return Guest("", held=False)
    if vf.driver == VFIO:
        holders = _openers(_vfio_nodes(vf))
        if holders:
            return Guest(f"{VFIO}: {', '.join(holders)}", held=True)
        return Guest(VFIO, held=False)
    if vf.netdev:
        up = _is_up(vf.netdev)
        return Guest(f"{vf.driver}: {vf.netdev}{'' if up else ' (down)'}", held=up)
    if (PCI_DEVICES / vf.address / "net").exists():
        return Guest(f"{vf.driver}: in another network namespace", held=True)
    return Guest(vf.driver, held=False)


def _is_up(netdev: str) -> bool:
    try:
        flags = int((Path("/sys/class/net") / netdev / "flags").read_text(), 16)
    except (OSError, ValueError):
        return False
    return bool(flags & 1)  # IFF_UP


def _vfio_nodes(vf: VfDevice) -> frozenset[str]:
    """The device nodes through which a process opens this VF: its group's and its own."""
    nodes = set()
    if vf.iommu_group is not None:
        nodes |= {f"/dev/vfio/{vf.iommu_group}", f"/dev/vfio/noiommu-{vf.iommu_group}"}
    try:
        own = (PCI_DEVICES / vf.address / "vfio-dev").iterdir()
        nodes |= {f"/dev/vfio/devices/{entry.name}" for entry in own}
    except OSError:
        pass
    return frozenset(nodes)


def _openers(nodes: frozenset[str]) -> list[str]:
    """``name[pid]`` of each process that has one of the nodes open.

    Read from /proc: trying to open a group oneself would keep a starting guest out.
    """
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(fd.readlink()) in nodes for fd in (process / "fd").iterdir()):
                found.append(f"{(process / 'comm').read_text().strip()}[{process.name}]")
        except OSError:
            continue  # it ended, or a descriptor was closed, while we looked
    return found
