"""Counters of VFs and PF, from the PF's netdev: one RTM_GETLINK for all of them."""

from __future__ import annotations

import os
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from vfd.nic.kernel.drivers import Driver
from vfd.nic.protocol import PF_PORT, Counters, NicError

RTEXT_FILTER_VF = 1

_VF = {
    "rx_packets": "IFLA_VF_STATS_RX_PACKETS",
    "rx_bytes": "IFLA_VF_STATS_RX_BYTES",
    "rx_dropped": "IFLA_VF_STATS_RX_DROPPED",
    "tx_packets": "IFLA_VF_STATS_TX_PACKETS",
    "tx_bytes": "IFLA_VF_STATS_TX_BYTES",
    "tx_dropped": "IFLA_VF_STATS_TX_DROPPED",
}
_PF = (
    "rx_packets", "rx_bytes", "rx_errors", "rx_dropped",
    "tx_packets", "tx_bytes", "tx_errors", "tx_dropped",
)  # fmt: skip


def names(driver: Driver) -> frozenset[str]:
    """The counters that the driver's VFs have."""
    return frozenset(_VF) if driver.statistics else frozenset()


def read(ip: IPRoute, netdev: str, driver: Driver) -> Counters:
    """All VFs' counters and the PF's. Raises NicError.

    Drivers that leave IFLA_VF_STATS at 0 have no VF counters here: absent, not 0.
    """
    try:
        links = list(ip.get_links(ifname=netdev, ext_mask=RTEXT_FILTER_VF))
    except NetlinkError as error:
        raise NicError(f"{netdev}: reading counters: {os.strerror(error.code)}") from error
    found: dict[int, dict[str, int]] = {}
    for link in links:
        stats = link.get_attr("IFLA_STATS64") or {}
        found[PF_PORT] = {name: stats[name] for name in _PF if name in stats}
        infos = link.get_attr("IFLA_VFINFO_LIST")
        for info in infos.get_attrs("IFLA_VF_INFO") if infos else ():
            found[info.get_attr("IFLA_VF_MAC")["vf"]] = _of_vf(info, driver)
    return found


def _of_vf(info: Any, driver: Driver) -> dict[str, int]:
    stats = info.get_attr("IFLA_VF_STATS") if driver.statistics else None
    if stats is None:
        return {}
    values = {name: stats.get_attr(attribute) for name, attribute in _VF.items()}
    return {name: value for name, value in values.items() if value is not None}
