"""ethtool's private flags and the NIC's bridge mode, on whatever NICs this machine has.

The laboratory's igb has a private flag, ``legacy-rx``:
``lab/vm pytest -- tests/kernel/test_legacy.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


@pytest.fixture
def igb() -> int:
    for netdev in sorted(Path("/sys/class/net").iterdir()):
        driver = netdev / "device/driver"
        if os.geteuid() == 0 and driver.exists() and driver.resolve().name == "igb":
            return int((netdev / "ifindex").read_text())
    pytest.skip("no igb here, whose private flag could be set: run it in the laboratory, as root")


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


def test_a_flag_is_set_and_read_back_and_others_stay(igb: int) -> None:
    before = private_flags(igb)
    assert "legacy-rx" in before
    set_private_flags(igb, {"legacy-rx": True, "no-such-flag": True})
    try:
        assert private_flags(igb) == {**before, "legacy-rx": True}
    finally:
        set_private_flags(igb, before)
    assert private_flags(igb) == before
