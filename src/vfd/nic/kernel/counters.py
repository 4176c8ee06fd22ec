"""Counters of VFs and PF, from the PF's netdev: one RTM_GETLINK for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.rtnl import read_link
from vfd.nic.kernel.vfinfo import VF_COUNTERS
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import PF_PORT, Counters, NicError, NicGoneError


def names(driver: Driver) -> frozenset[str]:
    """The counters that the driver's VFs have."""
    return VF_COUNTERS if driver.statistics else frozenset()


def read(
    netlink: Netlink,
    index: int,
    driver: Driver,
    more: Iterable[Mapping[int, Mapping[str, int]]] = (),
) -> Counters:
    """All VFs' counters and the PF's; ``more``: what other surfaces count. Raises NicError,
    NicGoneError.

    Drivers that leave IFLA_VF_STATS at 0 have no VF counters here: absent, not 0. Nor have VFs
    that are too many for the kernel's answer once it has counters in it.
    """
    try:
        link = read_link(netlink, index, stats=driver.statistics)
    except NicGoneError:
        raise
    except NicError:
        link = read_link(netlink, index)
    found: dict[int, Mapping[str, int]] = {
        vfid: {
            **link.vf_counters.get(vfid, {}),
            **{name: n for counted in more for name, n in counted.get(vfid, {}).items()},
        }
        for vfid in link.vfs
    }
    found[PF_PORT] = link.counters
    return found
