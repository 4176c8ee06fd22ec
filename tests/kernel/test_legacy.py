"""ethtool's private flags and the NIC's bridge mode, where there is neither.

tests/lab/test_private_flags.py is about a NIC with a flag."""

from __future__ import annotations

from vfd.nic.kernel.legacy import (
    WANTED_FLAGS,
    BridgeMode,
    flag_capabilities,
    private_flags,
    set_private_flags,
)
from vfd.nic.netlink import Netlink
from vfd.policy.values import PfPolicy

LOOPBACK = 1
"""The index of ``lo``, which has neither."""


def test_a_netdev_without_private_flags_has_none_and_takes_none() -> None:
    assert private_flags(LOOPBACK) == {}
    set_private_flags(LOOPBACK, WANTED_FLAGS)
    assert flag_capabilities(LOOPBACK) == {}


def test_a_netdev_without_a_bridge_offers_no_loopback_and_is_left_alone() -> None:
    bridge = BridgeMode(Netlink(), LOOPBACK)
    assert bridge.pf_capabilities() == {}
    assert bridge.observe_pf(PfPolicy(id="0000:01:00.0")) == {}
    policy = PfPolicy(id="0000:01:00.0")
    bridge.write_pf(policy, policy.model_copy(update={"enable_loopback": True}))
