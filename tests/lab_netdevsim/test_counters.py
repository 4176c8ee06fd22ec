"""Statistics of more VFs than the kernel's answer holds."""

from __future__ import annotations

import socket
from dataclasses import replace

from tests.lab_netdevsim.simulated import Simulated

from vfd.nic.kernel import counters
from vfd.nic.kernel.drivers import driver_named
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import PF_PORT

COUNTING = replace(driver_named("netdevsim"), statistics=True)


def test_vfs_that_are_too_many_to_be_told_have_no_counters_rather_than_wrong_ones() -> None:
    for count in (64, 256):
        with Simulated(vfs=count) as nic:
            netlink, index = Netlink(), socket.if_nametoindex(nic.netdev)
            names, why = counters.names(netlink, index, COUNTING, count)
            found = counters.read(netlink, index, COUNTING)
            netlink.close()
        assert "rx_packets" in found[PF_PORT]
        vfs = {vfid: values for vfid, values in found.items() if vfid != PF_PORT}
        if names:
            assert vfs.keys() == set(range(count))
            assert all(values == dict.fromkeys(names, 0) for values in vfs.values())
        else:
            assert count == 256
            assert "256 VFs" in why
            assert not any(vfs.values())
