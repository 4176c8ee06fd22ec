"""The PF's own settings: number of VFs, MTU, promiscuous mode."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

from vfd.nic.kernel.devlink_params import MAX_MACS as MAX_MACS_PARAM
from vfd.nic.kernel.devlink_params import param_capabilities, params
from vfd.nic.kernel.guests import bind_idle, guests_of, idle_driver
from vfd.nic.kernel.legacy import WANTED_FLAGS, BridgeMode, flag_capabilities, set_private_flags
from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.ours import Ours
from vfd.nic.kernel.sriov import PciPf
from vfd.nic.kernel.surface import PfSurface, Shown
from vfd.nic.kernel.vfinfo import RTM_SETLINK, set_link
from vfd.nic.netlink import Message, Netlink, NetlinkError
from vfd.nic.protocol import Capability, NicError, NicGoneError, Support
from vfd.policy.values import MAX_MACS, PfPolicy

_IFF_PROMISC = 0x100
_ABSENT = {
    "enable_loopback": Capability(
        Support.LIMITED,
        by="the driver",
        limit="always on: this driver's embedded switch can't be turned off",
        consequence="VFs of this PF reach each other inside the NIC",
        fixed=True,
    ),
    "vf_oversubscription": Capability(Support.ENFORCED, by="vfd"),
    "tpid": Capability(
        Support.LIMITED, by="rtnetlink", limit="per VF, with the VLAN that the NIC inserts"
    ),
    "tclasses": Capability(
        Support.ABSENT,
        reason="this NIC's driver offers no traffic classes per VF; Intel's out-of-tree i40e or a"
        " software NIC does",
        consequence="all traffic is in one class",
    ),
    "bw_grps": Capability(
        Support.ABSENT,
        reason="this NIC's driver offers no bandwidth groups; a software NIC does",
        consequence="all traffic is in one class",
    ),
    "enable_qos": Capability(
        Support.ABSENT,
        reason="this NIC's driver offers no traffic classes per VF; Intel's out-of-tree i40e or a"
        " software NIC does",
        consequence="all traffic is in one class",
    ),
    **dict.fromkeys(
        ("link_speed", "uplink", "guest"),
        Capability(
            Support.ABSENT,
            reason="a setting of software NICs: a real NIC has its own wire and its own VFs",
            consequence="it has no meaning here",
        ),
    ),
}


_RESERVES = Capability(
    Support.LIMITED,
    by="daemon",
    limit="VFs' files are held against it, but the NIC's driver grants by itself what guests ask"
    " for: one whose vm_mac isn't forced, or that has trust, may be granted a reserved MAC",
)
_BINDS = Capability(
    Support.LIMITED,
    by="sysfs:driver_override",
    limit="a VF that a guest holds keeps its driver until the guest lets it go",
)
_BINDS_NOTHING = Capability(
    Support.ABSENT,
    reason="this NIC's VFs are no PCI functions, which a driver could be bound to",
    consequence="its VFs have no drivers",
)


class PfSettings:
    """What is set on the PF itself."""

    def __init__(
        self,
        netlink: Netlink,
        device: PciPf,
        index: int,
        surfaces: Sequence[PfSurface] = (),
        ours: Ours | None = None,
    ) -> None:
        self._ours = ours or Ours()
        self._netlink = netlink
        self._device = device
        self._index = index
        self._surfaces = tuple(surfaces)
        self._params = params(device.path.parent.parent.name, device.address)
        """As of now: what changes them later loads the driver anew, too."""

    @property
    def max_macs(self) -> int:
        """The most MACs that a VF can be given."""
        return min(MAX_MACS, int(self._params.get(MAX_MACS_PARAM, MAX_MACS)))

    def capabilities(self) -> Mapping[str, Capability]:
        return {
            "vfs": Capability(
                Support.LIMITED, by="sysfs", limit=f"at most {self._device.total_vfs()}"
            ),
            "vf_driver": _BINDS if self._device.vfs_are_functions() else _BINDS_NOTHING,
            "mtu": Capability(Support.ENFORCED, by="rtnetlink"),
            "promiscuous": Capability(Support.ENFORCED, by="rtnetlink"),
            "reserved_macs": _RESERVES,
            "unconfigured": Capability(Support.ENFORCED, by="daemon"),
            **_ABSENT,
            **{
                attribute: capability
                for surface in reversed(self._surfaces)
                for attribute, capability in surface.pf_capabilities().items()
            },
        }

    def device(self) -> Mapping[str, Capability]:
        """The driver's private flags and the device's parameters that decide what VFs can do."""
        return {**flag_capabilities(self._index), **param_capabilities(self._params)}

    def observe(self, wanted: PfPolicy, *, counted: int | None = None) -> PfPolicy:
        """``wanted`` with what the PF shows in place of what can be set on it.

        ``counted``: how many VFs there are, where that is known; their drivers are then not looked
        at either. Raises NicError, NicGoneError."""
        vfs, driver = counted, wanted.vf_driver
        if counted is None:
            vfs = self._device.num_vfs()
            if driver is not None and self._device.vfs_are_functions():
                driver = idle_driver(self._ours.of(self._device.vfs()), driver)
        if wanted.vfs is None:
            vfs = None
        return wanted.model_copy(update={"vfs": vfs, "vf_driver": driver, **self.shown(wanted)})

    def shown(self, wanted: PfPolicy) -> Shown:
        """The attributes whose change netlink tells: all but those of the VFs as devices.

        Raises NicError, NicGoneError."""
        link = read_link(self._netlink, self._index, vfs=False)
        return {
            "mtu": link.mtu,
            "promiscuous": bool(link.flags & _IFF_PROMISC),
            **{
                attribute: value
                for surface in reversed(self._surfaces)
                for attribute, value in surface.observe_pf(wanted).items()
            },
        }

    def apply(self, now: PfPolicy, after: PfPolicy) -> None:
        """Leads from what the PF shows now to what is asked of it. A change of the number of VFs
        takes all of them away, and those that are made are without rules.

        Raises NicError, perhaps with a part done: the caller leads back.
        """
        if after.vfs is not None and after.vfs != self._device.num_vfs():
            if now.vfs == 0:  # drivers take these only while no VF is active
                set_private_flags(self._index, WANTED_FLAGS)
            hosts = after.vf_driver is None or after.unconfigured == "leave"
            self._recount(after.vfs, probe=hosts)
        if after.mtu != now.mtu:
            self._link(mtu=after.mtu)
        if after.promiscuous != now.promiscuous:
            # The flag that was set here is counted apart from tcpdump's and a bridge's.
            self._link(flags=_IFF_PROMISC if after.promiscuous else 0, change=_IFF_PROMISC)
        for surface in self._surfaces:
            surface.write_pf(now, after)

    def _recount(self, count: int, *, probe: bool) -> None:
        """``probe``: the host's drivers bind to the new VFs, as they do by themselves. Else they
        are to be bound once they have their rules; VFs that others make afterwards are theirs."""
        if probe or not count or not self._device.vfs_are_functions():
            self._device.set_num_vfs(count)
            return
        self._device.set_autoprobe(False)
        try:
            self._device.set_num_vfs(count)
        finally:
            self._device.set_autoprobe(True)

    def bind_vfs(self, wanted: PfPolicy) -> None:
        """Gives VFs that nobody holds the driver that is wanted, all or none. Raises NicError."""
        if wanted.vf_driver is not None and self._device.vfs_are_functions():
            self._device.set_autoprobe(True)  # off since we made VFs, if we were killed meanwhile
            bind_idle(self._ours.of(self._device.vfs()), wanted.vf_driver)

    def refuse_count(self, after: PfPolicy, *, force: bool) -> None:
        """Raises NicError where the number of VFs asked for can't be had.

        A change of it goes through 0, which takes every VF from its guest. ``force``: so be it.
        """
        count, most = after.vfs or 0, self._device.total_vfs()
        if count > most:
            raise NicError(
                f"{self._device.address}: {count} VFs asked for, but the NIC and its driver allow"
                f" {most}"
            )
        if force or not self._device.num_vfs():
            return
        guests = guests_of(self._device.vfs())
        held = [f"VF {vfid} ({guest.text})" for vfid, guest in guests.items() if guest.held]
        if held:
            raise NicError(
                f"{self._device.address}: {count} VFs asked for, but a change of the count takes"
                f" all VFs away, and guests hold {', '.join(held)}: stop them first, or force it"
            )

    def _link(self, *, flags: int = 0, change: int = 0, mtu: int | None = None) -> None:
        what = f"MTU {mtu}" if mtu is not None else "promiscuous mode"
        body = set_link(self._index, flags=flags, change=change, mtu=mtu)
        try:
            self._netlink.send([Message(RTM_SETLINK, body, what=what)])
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                raise NicGoneError(f"{self._device.address}: the PF's netdev is gone") from error
            why = os.strerror(error.errno or 0)
            raise NicError(f"{self._device.address}: setting {what}: {why}") from error


def disturbing(offers: Mapping[str, Capability], use: str) -> frozenset[str]:
    """See ``Capabilities``. Between VEB and VEPA guests lose each other, or are joined, and i40e
    resets the whole PF (i40e_ndo_bridge_setlink). The MTU is the host's own, too."""
    modes = frozenset(name for name, offer in offers.items() if offer.by == BridgeMode.BY)
    return modes | {"mtu"} if use else modes
