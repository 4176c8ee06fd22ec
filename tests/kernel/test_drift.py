"""What differs on a NIC from what is expected, and for how long that is worth a repair."""

from __future__ import annotations

from vfd.nic.kernel.drift import Drift
from vfd.policy.values import PfPolicy, VfRules

WANTED = PfPolicy(id="0000:01:00.0")
NAMES_ONE, NAMES_TWO = {"mtu": 1500}, {"mtu": 1500, "enable_loopback": False}


def test_what_a_vendors_interface_shows_as_it_is_wanted_is_no_drift_when_it_comes_or_goes() -> None:
    drift = Drift()
    assert drift.of_pf(WANTED, NAMES_ONE, NAMES_TWO) == []
    assert drift.of_pf(WANTED, NAMES_TWO, NAMES_ONE) == []
    [event] = drift.of_pf(WANTED, NAMES_ONE, {**NAMES_TWO, "enable_loopback": True})
    assert "enable_loopback" in event.text
    assert "mtu" not in event.text


def test_a_nic_that_shows_something_else_for_ever_is_repaired_a_few_times() -> None:
    drift = Drift()
    expected, shown = {0: VfRules(vlans=[1])}, {0: VfRules(vlans=[2])}
    told = [len(drift.of_vfs(expected, shown)) for _ in range(6)]
    assert told == [1, 1, 1, 0, 0, 0]
    drift.forget_repaired(expected)
    assert len(drift.of_vfs(expected, shown)) == 1


def test_another_number_of_vfs_is_told_with_both() -> None:
    [event] = Drift().of_vfs({0: None, 1: None}, {0: None})
    assert event.vfid is None
    assert "from 2 to 1" in event.text
