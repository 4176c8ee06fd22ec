"""Finding a PF's control surfaces, by looking."""

from __future__ import annotations

from dataclasses import replace

from vfd.nic.kernel import netdevsim
from vfd.nic.kernel.drivers import NO_VF_OPERATIONS, driver_named
from vfd.nic.kernel.intel import IntelSysfs
from vfd.nic.kernel.legacy import BridgeMode
from vfd.nic.kernel.mlx import MlxSysfs
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.kernel.sriov import PciPf, find_pf
from vfd.nic.kernel.surface import PfSurface, Surface
from vfd.nic.kernel.switchdev_find import find_eswitch
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import NicError
from vfd.policy.values import C_TAG, S_TAG, PfPolicy


def open_pf(pf: PfPolicy) -> KernelNic:
    """See ``vfd.nic.kernel.open``."""
    device = netdevsim.find(pf.id) or find_pf(pf.id)
    driver = device.driver()
    if driver in NO_VF_OPERATIONS:
        raise NicError(
            f"{pf.id}: {NO_VF_OPERATIONS[driver]}: nothing can be enforced on its VFs from this"
            " host; use the software NIC in front of it, or another NIC"
        )
    return KernelNic(pf, device, find_surfaces)


def find_surfaces(
    pf: PfPolicy, device: PciPf, netlink: Netlink, index: int
) -> tuple[list[Surface], list[PfSurface]]:
    """The control surfaces that the PF has now, strongest first; those that also set the PF."""
    driver = device.driver()
    facts = driver_named(driver, device.ids()[1])
    eswitch = find_eswitch(pf, device, netlink, index, facts)
    if eswitch is not None:
        return eswitch
    # The vendors' files come and go with the VFs, so their surfaces look for them at each call.
    if driver == "i40e":
        intel = IntelSysfs(device.path / "sriov", pf)
        rtnetlink = Rtnetlink(netlink, index, facts, pf_tpid=pf.tpid)
        bridge = BridgeMode(netlink, index, gives_way=intel.present)
        return [intel, rtnetlink], [intel, bridge, rtnetlink]
    if driver == "mlx5_core":
        mlx = MlxSysfs(device.path / "sriov")
        shown = None
        if mlx.present():
            facts = replace(facts, vlan_tpids=(C_TAG, S_TAG))
            shown = mlx.port_tpid
        rtnetlink = Rtnetlink(netlink, index, facts, pf_tpid=pf.tpid, shown_tpid=shown)
        return [mlx, rtnetlink], [BridgeMode(netlink, index), rtnetlink]
    rtnetlink = Rtnetlink(netlink, index, facts, pf_tpid=pf.tpid)
    return [rtnetlink], [BridgeMode(netlink, index), rtnetlink]
