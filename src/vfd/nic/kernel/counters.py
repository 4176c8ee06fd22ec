"""Counters of VFs and PF, from the PF's netdev: one RTM_GETLINK for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vfd.nic.kernel.drivers import Driver
from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.vfinfo import VF_COUNTERS
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import PF_PORT, Counters

_ALWAYS_FIT = 128
"""VFs whose statistics fit a netlink attribute, whatever the kernel adds to them."""


def names(netlink: Netlink, index: int, driver: Driver, vfs: int) -> tuple[frozenset[str], str]:
    """The counters that the driver's VFs have through rtnetlink; where they have none, why. Raises
    NicError."""
    if not driver.statistics:
        return frozenset(), "this NIC's driver counts nothing per VF"
    if vfs > _ALWAYS_FIT and read_link(netlink, index, stats=True).torn:
        why = f"the statistics of {vfs} VFs outgrow the 65535 bytes that netlink has for them"
        return frozenset(), f"{why}: fewer VFs have some"
    return VF_COUNTERS, ""


def read(
    netlink: Netlink,
    index: int,
    driver: Driver,
    more: Iterable[Mapping[int, Mapping[str, int]]] = (),
) -> Counters:
    """All VFs' counters and the PF's; ``more``: what other surfaces count. Raises NicError,
    NicGoneError.

    Drivers that leave IFLA_VF_STATS at 0, and VFs that are too many (see ``names``), have none of
    rtnetlink's VF counters here: absent, not 0.
    """
    link = read_link(netlink, index, stats=driver.statistics)
    found: dict[int, Mapping[str, int]] = {
        vfid: {
            **link.vf_counters.get(vfid, {}),
            **{name: n for counted in more for name, n in counted.get(vfid, {}).items()},
        }
        for vfid in link.vfs
    }
    found[PF_PORT] = link.counters
    return found
