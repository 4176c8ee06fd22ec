"""The PF's own settings: number of VFs, MTU, promiscuous mode."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vfd.nic.kernel.guests import guest_of
from vfd.nic.kernel.sriov import PciPf
from vfd.nic.kernel.surface import PfSurface
from vfd.nic.protocol import Capability, NicError, Support
from vfd.policy.values import PfPolicy

_IFF_PROMISC = 0x100
_ABSENT = {
    "enable_loopback": Capability(
        Support.ABSENT,
        reason="the driver's embedded switch can't be turned off from rtnetlink",
        consequence="VFs of this PF reach each other inside the NIC",
    ),
    "vf_oversubscription": Capability(Support.ENFORCED, by="vfd"),
    "tpid": Capability(
        Support.LIMITED, by="rtnetlink", limit="per VF, with the VLAN that the NIC inserts"
    ),
    "tclasses": Capability(
        Support.ABSENT,
        reason="traffic classes per VF need the vendor's sysfs (i40e out of tree) or switchdev",
        consequence="all traffic is in one class",
    ),
}


class PfSettings:
    """What is set on the PF itself."""

    def __init__(
        self, ip: IPRoute, device: PciPf, netdev: str, surfaces: Sequence[PfSurface] = ()
    ) -> None:
        self._ip = ip
        self._device = device
        self._netdev = netdev
        self._surfaces = tuple(surfaces)

    def capabilities(self) -> Mapping[str, Capability]:
        return {
            "vfs": Capability(
                Support.LIMITED, by="sysfs", limit=f"at most {self._device.total_vfs()}"
            ),
            "mtu": Capability(Support.ENFORCED, by="rtnetlink"),
            "promiscuous": Capability(Support.ENFORCED, by="rtnetlink"),
            **_ABSENT,
            **{
                attribute: capability
                for surface in reversed(self._surfaces)
                for attribute, capability in surface.pf_capabilities().items()
            },
        }

    def observe(self, wanted: PfPolicy) -> PfPolicy:
        """``wanted`` with what the PF shows in place of what can be set on it."""
        return wanted.model_copy(
            update={
                "vfs": self._device.num_vfs() if wanted.vfs is not None else None,
                "mtu": self._number("mtu", wanted.mtu),
                "promiscuous": bool(self._flags() & _IFF_PROMISC),
                **{
                    attribute: value
                    for surface in reversed(self._surfaces)
                    for attribute, value in surface.observe_pf(wanted).items()
                },
            }
        )

    def apply(self, before: PfPolicy, after: PfPolicy) -> None:
        """Raises NicError with the settings of ``before`` in place."""
        now = self.observe(before)
        try:
            self._set(now, after)
        except NicError:
            self._set(self.observe(before), before)
            raise

    def _set(self, now: PfPolicy, after: PfPolicy) -> None:
        if after.vfs is not None and after.vfs != now.vfs:
            self.refuse_while_held(after.vfs)
            self._device.set_num_vfs(after.vfs)
        if after.mtu != now.mtu:
            self._link(mtu=after.mtu)
        if after.promiscuous != now.promiscuous:
            # The flag that was set here is counted apart from tcpdump's and a bridge's.
            self._link(flags=_IFF_PROMISC if after.promiscuous else 0, change=_IFF_PROMISC)
        for surface in self._surfaces:
            surface.write_pf(now, after)

    def refuse_while_held(self, count: int) -> None:
        """A change of the count goes through 0, which takes every VF from its guest."""
        if self._device.num_vfs() in (0, count):
            return
        held = [
            f"VF {vf.vfid} ({guest.text})"
            for vf in self._device.vfs()
            if (guest := guest_of(vf)).held
        ]
        if held:
            raise NicError(
                f"{self._device.address}: {count} VFs asked for, but a change of the count takes"
                f" all VFs away, and guests hold {', '.join(held)}: stop them first, or force it"
            )

    def _flags(self) -> int:
        path = Path("/sys/class/net") / self._netdev / "flags"
        try:
            return int(path.read_text(), 16)
        except (OSError, ValueError):
            return 0

    def _number(self, name: str, default: int) -> int:
        path = Path("/sys/class/net") / self._netdev / name
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            return default

    def _link(self, **what: int) -> None:
        try:
            index = self._ip.link_lookup(ifname=self._netdev)[0]
            self._ip.link("set", index=index, **what)
        except (NetlinkError, IndexError) as error:
            why = os.strerror(error.code) if isinstance(error, NetlinkError) else "no such netdev"
            raise NicError(f"{self._netdev}: setting {what}: {why}") from error
