"""What is set on a PF as a whole, on models: how many VFs it has, how its bridge switches."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kernel.modelled_nic import ADDRESS, modelled_pf, plain_pf
from tests.kernel.test_modelled_pfs import daemon_on, reload
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.daemon.managed import Condition
from vfd.policy.values import PfPolicy

pytestmark = pytest.mark.root
PF = PfPolicy(id=ADDRESS)


@pytest.mark.parametrize("vendor", ["intel", "mellanox"])
def test_a_pf_that_has_vfs_is_given_another_number_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str
) -> None:
    """The kernel refuses every way from one number to another but by 0."""
    files = {"a": {"vfid": 1, "vlans": [5, 6]}}
    with (
        modelled_pf(vendor, vfs=4) as (device, model),
        daemon_on(device, tmp_path, monkeypatch, files, vfs=4) as (service, managed),
    ):
        for count in (6, 3):
            reload(service, tmp_path, vfs=count)
            assert (managed.condition, managed.detail) == (Condition.OK, "")
            assert len(model.state()["vfs"]) == count
            assert set(model.vf(1)["trunk"]) == {5, 6}


@pytest.mark.parametrize("driver", ["ixgbe", "ice", "mlx5_core", "i40e"])
def test_a_nics_bridge_switches_between_vfs_where_loopback_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """VEPA sends all to the wire: IEEE 802.1Qbg."""
    with plain_pf(driver, PlainVfs([VfSeen()])) as device:
        device.netdev.hwmode = "vepa"
        with daemon_on(device, tmp_path, monkeypatch, enable_loopback=True) as (service, managed):
            assert device.netdev.hwmode == "veb"
            reload(service, tmp_path, enable_loopback=False)
            assert device.netdev.hwmode == "vepa"
            assert (managed.condition, managed.detail) == (Condition.OK, "")


@pytest.mark.parametrize(("hwmode", "loopback"), [("veb", True), ("vepa", False)])
def test_a_bridge_shows_as_what_it_is(hwmode: str, loopback: bool) -> None:
    with plain_pf("ixgbe", PlainVfs([VfSeen()])) as device:
        device.netdev.hwmode = hwmode
        nic = device.open(PF)
        pf = nic.observe().pf
        assert pf is not None
        assert pf.enable_loopback is loopback
        nic.close()
