"""Legacy mode: what ``ip link set … vf`` sets, and igb's driver refuses, on netdevsim."""

from __future__ import annotations

import pytest
from tests.lab_netdevsim.simulated import Simulated, mac, run, until

from vfd.nic.protocol import EventKind
from vfd.policy.rate import Rate
from vfd.policy.values import LinkStatus


def test_its_identity_is_of_its_own_bus(legacy: Simulated) -> None:
    identity = legacy.nic.identity
    assert (identity.address, identity.driver) == (legacy.name, "netdevsim")
    assert legacy.nic.capabilities.max_vfs == 256


def test_a_service_tag_is_802_1ad_to_the_kernel(legacy: Simulated) -> None:
    legacy.set(legacy.vf(0, 300, strip_stag=True), tpid=0x88A8)
    (vlan,) = legacy.ip_shows(0)["vlan_list"]
    assert (vlan["vlan"], vlan["protocol"]) == (300, "802.1ad")
    assert legacy.observed() == legacy.expected()


def test_a_priority_is_set_read_back_and_put_back(legacy: Simulated) -> None:
    legacy.set(
        legacy.vf(0, 5, strip_ctag=True, pcp=6),
        legacy.vf(1, 300, strip_stag=True, pcp=1),
        tpid=0x88A8,
    )
    (tag,) = legacy.ip_shows(0)["vlan_list"]
    assert (tag["vlan"], tag["qos"]) == (5, 6)
    (tag,) = legacy.ip_shows(1)["vlan_list"]
    assert (tag["vlan"], tag["qos"], tag["protocol"]) == (300, 1, "802.1ad")
    assert legacy.observed() == legacy.expected()
    run("ip", "link", "set", legacy.netdev, "vf", "0", "vlan", "5", "qos", "2")
    shown = legacy.observed()[0]
    assert shown is not None
    assert shown.pcp == 2
    legacy.set(legacy.vf(0, 5, strip_ctag=True))
    assert legacy.observed() == legacy.expected()
    assert "qos" not in legacy.ip_shows(0)["vlan_list"][0]


def test_rates_and_link_state_are_set(legacy: Simulated) -> None:
    legacy.set(
        legacy.vf(0, 5, strip_ctag=True, rate=Rate(bps=2 * 10**9), min_rate=Rate(bps=10**9)),
        legacy.vf(1, 6, strip_ctag=True, link_status="on"),
        legacy.vf(2, 7, strip_ctag=True, link_status="off", trust=True),
    )
    assert legacy.ip_shows(0)["rate"] == {"max_tx": 2000, "min_tx": 1000}
    assert legacy.ip_shows(1)["link_state"] == "enable"
    assert legacy.ip_shows(2)["link_state"] == "disable"
    assert legacy.ip_shows(2)["trust"] is True
    assert legacy.ip_shows(3)["link_state"] == "disable"  # closed
    assert legacy.observed() == legacy.expected()


@pytest.mark.parametrize("count", [64, 256])
def test_many_vfs_are_set_and_read_back(count: int) -> None:
    with Simulated(vfs=count) as nic:
        nic.set(*(nic.vf(vfid, 1 + vfid, strip_ctag=True) for vfid in range(count)))
        assert nic.observed() == nic.expected()
        if count == 64:
            # Of 256 ip shows none: with statistics, which it always asks for, the kernel's list
            # of them outgrows the 65535 bytes of a netlink attribute.
            assert nic.ip_shows(63)["address"] == mac(63)


def test_the_number_of_vfs_is_changed(legacy: Simulated) -> None:
    legacy.set(vfs=7)
    assert len(legacy.nic.observe().vfs) == 7


def test_drift_is_noticed(legacy: Simulated) -> None:
    run("ip", "link", "set", legacy.netdev, "up")  # of a PF that is down, the kernel tells nothing
    legacy.set(legacy.vf(0, 5, strip_ctag=True))
    legacy.nic.observe()
    legacy.nic.events()
    run("ip", "link", "set", legacy.netdev, "vf", "0", "vlan", "6")
    seen = []

    def drifted() -> bool:
        seen.extend(legacy.nic.events())
        return any(event.kind is EventKind.DRIFT and event.vfid == 0 for event in seen)

    until(drifted)
    assert legacy.observed()[0] != legacy.expected()[0]


def test_link_status_of_an_open_vf_is_as_asked(legacy: Simulated) -> None:
    for status in LinkStatus:
        legacy.set(legacy.vf(0, 5, strip_ctag=True, link_status=status))
        shown = legacy.observed()[0]
        assert shown is not None
        assert shown.link_status is status


def test_a_parameter_of_devlink_limits_the_macs_of_a_vf(legacy: Simulated) -> None:
    assert legacy.nic.capabilities.max_macs == 32  # netdevsim's own number
    assert legacy.nic.capabilities.device["max_macs"].by == "devlink"
    device = f"netdevsim/{legacy.name}"
    run("devlink", "dev", "param", "set", device, "name", "max_macs", "value", "5",
        "cmode", "driverinit")  # fmt: skip
    run("devlink", "dev", "reload", device)
    until(lambda: EventKind.BACK in [event.kind for event in legacy.nic.events()])
    assert legacy.nic.capabilities.max_macs == 5
