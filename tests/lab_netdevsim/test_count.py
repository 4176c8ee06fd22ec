"""A change of the number of VFs takes all of them: what the new ones are, and what is undone."""

from __future__ import annotations

import pytest
from tests.lab_netdevsim.simulated import Simulated, mac

from vfd.nic.protocol import NicError
from vfd.policy.values import VfPolicy

REFUSED = "01:00:5e:00:00:01"
"""No driver takes a multicast address (nsim_set_vf_mac). Our own rules let none come so far."""


def refused_by_the_driver(vf: VfPolicy) -> VfPolicy:
    return vf.model_copy(update={"vm_mac": REFUSED})


def test_the_new_vfs_have_their_rules_and_the_others_are_closed(legacy: Simulated) -> None:
    legacy.set(legacy.vf(1, 6, strip_ctag=True), vfs=7)
    legacy.vfs = 7
    assert legacy.observed() == legacy.expected()


def test_a_change_of_the_count_that_fails_leaves_every_vf_with_its_rules(legacy: Simulated) -> None:
    legacy.set(
        legacy.vf(0, 5, strip_ctag=True, rate="2Gbps"), legacy.vf(2, 7, strip_ctag=True), mtu=2000
    )
    before = legacy.nic.observe()
    assert legacy.observed() == legacy.expected()
    with pytest.raises(NicError, match="VF 0, 5"):
        legacy.set(
            legacy.vf(0, 9, strip_ctag=True),
            refused_by_the_driver(legacy.vf(5, 8, strip_ctag=True)),
            vfs=6,
            mtu=3000,
        )
    assert legacy.nic.observe() == before
    assert legacy.ip_shows(0)["address"] == mac(0)


def test_more_vfs_than_there_are_take_none_away(legacy: Simulated) -> None:
    legacy.set(legacy.vf(0, 5, strip_ctag=True))
    with pytest.raises(NicError, match=r"257 VFs asked for.* allow 256"):
        legacy.set(legacy.vf(0, 5, strip_ctag=True), vfs=257)
    assert legacy.observed()[0] is not None
    assert legacy.ip_shows(0)["vlan_list"][0]["vlan"] == 5
