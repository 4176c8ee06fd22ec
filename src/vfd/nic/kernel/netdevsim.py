"""netdevsim, the kernel's simulated NIC, as a PF: its device is on a bus of its own, without PCI.

Its VFs are numbers: no PCI functions, no netdevs but representors in switchdev mode. What the
backend does through netlink is real on it, which is why tests use it (docs/lab.md). Source: the
kernel's drivers/net/netdevsim/bus.c.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vfd.nic.kernel.sriov import NETDEVS, PciPf, VfDevice
from vfd.policy.addresses import is_netdev_name

_DEVICES = Path("/sys/bus/netdevsim/devices")
_DEBUGFS = Path("/sys/kernel/debug/netdevsim")


@dataclass(frozen=True, slots=True)
class NetdevsimPf(PciPf):
    """``address``: the device's name, ``netdevsim10``."""

    @property
    def path(self) -> Path:
        return _DEVICES / self.address

    def total_vfs(self) -> int:
        try:
            return int((_DEBUGFS / self.address / "max_vfs").read_text())
        except (OSError, ValueError):
            return 0

    def ids(self) -> tuple[str, str]:
        return "sim", "netdevsim"

    def vfs(self, only: Collection[int] | None = None) -> tuple[VfDevice, ...]:
        return tuple(
            VfDevice(vfid, f"{self.address}/{vfid}", "", "", None, None, None)
            for vfid in range(self.num_vfs())
            if only is None or vfid in only
        )


def find(name: str) -> NetdevsimPf | None:
    """The device of that name, or of a netdev of that name; None where it is no netdevsim."""
    if not is_netdev_name(name):
        return None
    if (_DEVICES / name).exists():
        return NetdevsimPf(name)
    device = (NETDEVS / name / "device").resolve()
    return NetdevsimPf(device.name) if (_DEVICES / device.name).exists() else None
