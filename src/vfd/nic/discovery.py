"""Which backend drives a PF, and the one place that knows all of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from vfd.nic.protocol import Nic, NicError
from vfd.policy.addresses import is_netdev_name, is_pci_address
from vfd.policy.values import PfPolicy

_SYS = Path("/sys")

Backend = Literal["soft", "kernel", "dpdk"]


def address_of(device: str) -> str:
    """The PCI address behind a netdev's name, so that both name one PF; else ``device`` itself."""
    link = _SYS / "class/net" / device / "device"
    if not is_netdev_name(device) or not link.is_symlink():
        return device.lower() if _is_pci(device) else device
    target = link.resolve()
    # A virtio netdev's device is one on the virtio bus, whose parent is the PCI function.
    return next((part.name for part in (target, *target.parents) if _is_pci(part.name)), device)


def _is_pci(device: str) -> bool:
    return is_pci_address(device.lower()) and (_SYS / "bus/pci/devices" / device.lower()).exists()


def backend_of(pf: PfPolicy) -> Backend:
    """The backend that the configuration names, or the one that fits what is there.

    A PCI device or a netdev on one is the kernel's; anything else is no device of this host, so
    it is refused rather than taken for a software NIC. Raises NicError.
    """
    if pf.backend is not None:
        return pf.backend
    address = address_of(pf.id)
    if _is_pci(address):
        return "kernel"
    raise NicError(
        f"{pf.id}: no PCI device and no netdev on one has this name. Correct the PF's id in"
        ' pciids, or give it "backend": "soft" to make a software NIC of that name'
    )


@dataclass(frozen=True, slots=True)
class Absent:
    """Something that ``pciids`` names and this host doesn't have."""

    field: str
    value: str
    rule: str
    for_good: bool = False
    """No device that is plugged in will mend it."""


def absent(pf: PfPolicy) -> Iterator[Absent]:
    """What of the PF is not on this host, found without opening it: for ``vfd --check``."""
    try:
        backend = backend_of(pf)
    except NicError as error:
        yield Absent("id", pf.id, str(error).removeprefix(f"{pf.id}: "))
        return
    try:
        package = importlib.import_module(f"vfd.nic.{backend}")
    except ImportError as error:
        yield Absent("backend", backend, f"this vfd has no such backend ({error})", for_good=True)
        return
    for field, value, rule in package.missing(pf):
        yield Absent(field, value, rule)


def open_nic(pf: PfPolicy) -> Nic:
    """Opens the PF and adopts what it enforces; changes nothing. Raises NicError, NicGoneError."""
    backend = backend_of(pf)
    try:
        package = importlib.import_module(f"vfd.nic.{backend}")
        opener = package.open
    except (ImportError, AttributeError) as error:
        raise NicError(f'{pf.id}: this vfd has no backend "{backend}" ({error})') from error
    return cast(Nic, opener(pf))


def remove_nic(pf: PfPolicy) -> None:
    """Takes a software NIC away, with its VFs and counters. Close it first; harmless where there is
    nothing. Raises NicError, and for a NIC that nobody made by software."""
    backend = backend_of(pf)
    destroy = getattr(importlib.import_module(f"vfd.nic.{backend}"), "destroy", None)
    if destroy is None:
        raise NicError(f"{pf.id} is no software NIC ({backend}): it can't be removed by software")
    try:
        destroy(pf)
    except OSError as error:
        raise NicError(f"{pf.id} can't be removed: {error}") from error
