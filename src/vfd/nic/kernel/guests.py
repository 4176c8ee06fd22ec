"""Who holds a VF, as far as the host can see."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.kernel.sriov import (
    NETDEVS,
    PCI_DEVICES,
    PciPf,
    VfDevice,
    bind,
    link_name,
)
from vfd.nic.protocol import Event, EventKind, NicError, VfState
from vfd.policy.shown import printable

log = logging.getLogger("vfd.nic")

VFIO = "vfio-pci"


@dataclass(frozen=True, slots=True)
class Guest:
    text: str
    """In words, for listings; '' where nobody has the VF."""
    held: bool
    """Taking the VF away would hurt somebody."""


def guests_of(
    vfs: Iterable[VfDevice],
    macs: Mapping[int, str | None] | None = None,
    foreign: Collection[int] = (),
) -> dict[int, Guest]:
    """Who holds these VFs, by vfid.

    The VF's driver tells the kind of guest, and the driver's own objects whether it is in use.
    A VF on vfio-pci or a driver of uio's is held while a process has its group or device open,
    which takes one walk through /proc for all of them: on a host full of guests that is no quick
    look. So is one on mlx5 whose verbs device is open: DPDK drives it beside the kernel's netdev.
    ``macs``: those that were forced; a guest that has another is said to, and so is one of
    ``foreign``, whose MAC was taken from it.
    """
    vfs = tuple(vfs)
    nodes = {vf.vfid: _nodes(vf) for vf in vfs if vf.driver}
    opened = frozenset[str]().union(*nodes.values())
    openers = openers_of(opened) if opened else {}
    found = {}
    for vf in vfs:
        mine = nodes.get(vf.vfid, frozenset())
        holders = sorted({who for node in mine for who in openers.get(node, ())})
        if vf.driver and not is_on_netdev(vf):
            text = f"{vf.driver}: {', '.join(holders)}" if holders else vf.driver
            found[vf.vfid] = Guest(text, held=bool(holders))
        else:
            forced = macs.get(vf.vfid) if macs else None
            guest = _on_driver(vf, forced, is_foreign=vf.vfid in foreign)
            if holders:
                guest = Guest(f"{guest.text}, {', '.join(holders)}", held=True)
            found[vf.vfid] = guest
    return found


def state_of(vf: VfDevice, guest: Guest) -> VfState:
    """The VF as a device, with its guest: a closed VF as long as no rules are known of it."""
    return VfState(
        vfid=vf.vfid,
        rules=None,
        link_up=False,
        mac=None,
        mtu=None,
        address=vf.address,
        guest=guest.text,
        held=guest.held,
        driver=vf.driver,
        iommu_group=vf.iommu_group,
        numa_node=vf.numa_node,
        msix=vf.msix,
    )


def _on_driver(vf: VfDevice, mac: str | None, *, is_foreign: bool) -> Guest:
    """A VF on a network driver is held when its netdev is up here, or is not here: then it is in
    another namespace, whose sysfs shows it (``net`` is namespaced, kernel net/core/net-sysfs.c)."""
    if not vf.driver:
        return Guest("", held=False)
    if vf.netdev:
        up = is_up(vf.netdev)
        text = f"{vf.driver}: {printable(vf.netdev)}{'' if up else ' (down)'}"
        if (mac is not None or is_foreign) and (own := _mac(vf.netdev)) not in ("", mac):
            text += f", with {own} until its driver binds again"
        return Guest(text, held=up)
    if (PCI_DEVICES / vf.address / "net").exists():
        return Guest(f"{vf.driver}: in another network namespace", held=True)
    return Guest(vf.driver, held=False)


def is_on_netdev(vf: VfDevice) -> bool:
    """Whether the VF's guest has it as a netdev, which tells when it comes and goes."""
    if vf.netdev or vf.driver in ("", VFIO):
        return bool(vf.netdev)
    return not (PCI_DEVICES / vf.address / "uio").exists()  # igb_uio, uio_pci_generic


class HeldNetdevs:
    """Which VFs' netdevs are in use, as far as it was told: a guest that comes between two looks
    at the NIC is told of like any other."""

    def __init__(self) -> None:
        self._held: dict[int, bool] = {}
        self._indexes: set[int] = set()
        self.are_untold = False
        """VFs could not be looked at when there was news."""

    def start(self, vfs: Iterable[VfDevice], guests: Mapping[int, Guest]) -> None:
        """VFs that are seen for the first time, with the guests that they came with."""
        for vf in filter(is_on_netdev, vfs):
            self._held[vf.vfid] = guests[vf.vfid].held
            self._know(vf)

    def may_be_told_of(self, pf: str, index: int, name: str, *, is_gone: bool) -> bool:
        """Whether a netdev of which the kernel tells may be one of this PF's VFs'. On a host of
        containers most are not, and a look at all VFs takes some 0.1 ms each."""
        device = NETDEVS / name / "device"
        if not is_gone and (link_name(device / "physfn") == pf or not device.parent.exists()):
            self._indexes.add(index)
        return index in self._indexes

    def _know(self, vf: VfDevice) -> None:
        with contextlib.suppress(OSError):  # it is elsewhere
            self._indexes.add(socket.if_nametoindex(vf.netdev))

    def bound(self, vfid: int, *, is_bound: bool) -> None:
        """A driver bound a VF, whose netdev nobody uses at first; or left it."""
        if is_bound:
            self._held.setdefault(vfid, False)
        else:
            self._held.pop(vfid, None)

    def events(self, pf: PciPf) -> list[Event]:
        """Guests that took a VF's netdev or let it go: set it up or down, or moved it to another
        namespace. VFs that can't be looked at now are with the next news."""
        try:
            vfs = pf.vfs()
        except NicError as error:
            self.are_untold = True
            return [Event(EventKind.OVERRUN, text=str(error))]
        self.are_untold = False
        found = []
        guests = guests_of(filter(is_on_netdev, vfs))
        for vf in vfs:
            if vf.vfid not in guests:
                self._held.pop(vf.vfid, None)
                continue
            self._know(vf)
            guest = guests[vf.vfid]
            if self._held.get(vf.vfid, False) != guest.held:
                kind = EventKind.GUEST_COME if guest.held else EventKind.GUEST_GONE
                found.append(Event(kind, vf.vfid, f"{vf.address}: {guest.text}"))
            self._held[vf.vfid] = guest.held
        return found


def idle_driver(vfs: Iterable[VfDevice], wanted: str) -> str:
    """The driver of the VFs that nobody holds: ``wanted``, or in words what they have instead."""
    others = {vf.driver or "none" for vf in _idle_elsewhere(vfs, wanted)}
    return ", ".join(sorted(others)) or wanted


def bind_idle(vfs: Iterable[VfDevice], driver: str) -> None:
    """Binds the VFs that nobody holds to ``driver``, all or none. Raises NicError."""
    done: list[VfDevice] = []
    for vf in _idle_elsewhere(vfs, driver):
        try:
            bind(vf.address, driver)
        except NicError:
            for other in done:
                try:
                    bind(other.address, other.driver)
                except NicError as error:
                    log.warning("%s stays with %s: %s", other.address, driver, error)
            raise
        done.append(vf)


def _idle_elsewhere(vfs: Iterable[VfDevice], driver: str) -> list[VfDevice]:
    others = [vf for vf in vfs if vf.driver != driver]
    guests = guests_of(others)
    return [vf for vf in others if not guests[vf.vfid].held]


def is_up(netdev: str) -> bool:
    """Whether somebody set the netdev up, whatever its link."""
    try:
        flags = int((NETDEVS / netdev / "flags").read_text(), 16)
    except (OSError, ValueError):
        return False
    return bool(flags & 1)  # IFF_UP


def _mac(netdev: str) -> str:
    try:
        return (NETDEVS / netdev / "address").read_text().strip()
    except OSError:
        return ""


def _nodes(vf: VfDevice) -> frozenset[str]:
    """The device nodes through which a process opens this VF: its group's and its own."""
    nodes = set()
    if is_on_netdev(vf):
        with contextlib.suppress(OSError):
            verbs = (PCI_DEVICES / vf.address / "infiniband_verbs").iterdir()
            nodes = {f"/dev/infiniband/{entry.name}" for entry in verbs}
        return frozenset(nodes)
    if vf.iommu_group is not None:
        nodes |= {f"/dev/vfio/{vf.iommu_group}", f"/dev/vfio/noiommu-{vf.iommu_group}"}
    for kind, folder in (("vfio-dev", "/dev/vfio/devices"), ("uio", "/dev")):
        with contextlib.suppress(OSError):
            own = (PCI_DEVICES / vf.address / kind).iterdir()
            nodes |= {f"{folder}/{entry.name}" for entry in own}
    return frozenset(nodes)


def openers_of(nodes: Collection[str]) -> dict[str, list[str]]:
    """By device node, ``name[pid]`` of each process that has it open.

    Read from /proc: trying to open a group oneself would keep a starting guest out.
    """
    found: dict[str, list[str]] = {}
    for process in os.scandir("/proc"):
        if not process.name.isdigit():
            continue
        try:
            with os.scandir(f"{process.path}/fd") as opened:
                # pathlib takes five times as long, for thousands of descriptors
                has = {os.readlink(fd.path) for fd in opened}  # noqa: PTH115
            for node in has.intersection(nodes):
                name = os.fsdecode(Path(process.path, "comm").read_bytes()).strip()
                found.setdefault(node, []).append(printable(f"{name}[{process.name}]"))
        except OSError:
            continue  # it ended, or a descriptor was closed, while we looked
    return found
