"""Finding a PF's control surfaces, by looking."""

from __future__ import annotations

from pyroute2 import IPRoute

from vfd.nic.kernel.drivers import NO_VF_OPERATIONS, driver_named
from vfd.nic.kernel.intel import IntelSysfs
from vfd.nic.kernel.mlx import MlxSysfs
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.kernel.sriov import find_pf
from vfd.nic.kernel.surface import PfSurface, Surface
from vfd.nic.protocol import NicError
from vfd.policy.values import PfPolicy


def open_pf(pf: PfPolicy) -> KernelNic:
    """See ``vfd.nic.kernel.open``."""
    device = find_pf(pf.id)
    driver = device.driver()
    if driver in NO_VF_OPERATIONS:
        raise NicError(
            f"{pf.id}: {NO_VF_OPERATIONS[driver]}: nothing can be enforced on its VFs from this"
            " host; use the software NIC in front of it, or another NIC"
        )
    netdevs = device.netdevs()
    if not netdevs:
        raise NicError(
            f"{pf.id}: its driver is {driver or 'none'}, and it has no netdev here: bind it to its"
            " kernel driver, or choose the dpdk backend"
        )
    ip = IPRoute()
    surfaces: list[Surface] = [Rtnetlink(ip, netdevs[0], driver_named(driver))]
    pf_surfaces: list[PfSurface] = []
    # The vendors' files come and go with the VFs, so these surfaces look for them at each call.
    if driver == "i40e":
        intel = IntelSysfs(device.path / "sriov", pf)
        surfaces.insert(0, intel)
        pf_surfaces.append(intel)
    if driver == "mlx5_core":
        surfaces.insert(0, MlxSysfs(device.path / "sriov"))
    return KernelNic(pf, device, netdevs[0], ip, surfaces, pf_surfaces)
