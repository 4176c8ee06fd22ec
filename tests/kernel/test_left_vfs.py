"""Another manager's VFs on a NIC whose driver has VF operations: none is called for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.kernel.modelled_nic import plain_pf
from tests.kernel.test_modelled_pfs import add, daemon_on, reload
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.api import views as view
from vfd.daemon.door import pf_shortfalls
from vfd.daemon.pfs import set_vfs
from vfd.nic.kernel.switchdev import SwitchdevSurface
from vfd.policy.values import PfPolicy

THEIRS = "52:54:00:00:00:77"
MINE = {"vfid": 0, "vlans": [5], "strip_ctag": True, "vm_mac": "02:00:00:00:00:01"}


def vfs_of_two_managers() -> PlainVfs:
    return PlainVfs([VfSeen(), VfSeen(mac=THEIRS, vlan=77, trust=True), VfSeen()])


def called(vfs: PlainVfs) -> set[int]:
    found = {vfid for vfid, _ in vfs.calls}
    vfs.calls.clear()
    return found


@pytest.mark.parametrize("driver", ["igb", "ice"])
def test_no_operation_is_called_for_a_vf_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    vfs = vfs_of_two_managers()
    files = {"a": MINE}
    with (
        plain_pf(driver, vfs) as device,
        daemon_on(device, tmp_path, monkeypatch, files, unconfigured="leave", strict=False) as (
            service,
            managed,
        ),
    ):
        assert managed.condition == "ok", managed.detail
        assert called(vfs) == {0}
        reload(service, tmp_path, promiscuous=True)
        service.converge(managed, found="looked at", repair=True)
        assert called(vfs) <= {0}
        vfs.seen[0].vlan, vfs.seen[1].vlan = 6, 78
        service.converge(managed, found="looked at")
        assert (vfs.seen[0].vlan, vfs.seen[1].vlan) == (5, 78)

        def shared() -> list[str]:
            found = view.vf(managed, managed.vfs[0]).warnings
            return [text for text in found if "has the MAC" in text]

        assert shared() == []
        vfs.seen[1].mac = str(MINE["vm_mac"])
        service.converge(managed, found="looked at")
        [warning] = shared()
        assert "VF 1, which is not managed here" in warning
        vfs.seen[1].mac = THEIRS
        service.converge(managed, found="looked at")
        add(service, "b", **MINE | {"vfid": 2, "vm_mac": "02:00:00:00:00:02"})
        service.delete("a")
        assert called(vfs) == {0, 2}
        assert vfs.seen[0].vlan == 0
        assert vfs.seen[0].mac != MINE["vm_mac"]
        vfs.seen[0].mac, vfs.seen[0].vlan = "52:54:00:00:00:78", 79
        service.converge(managed, found="looked at", repair=True)
        assert called(vfs) == set()
        assert (vfs.seen[1].mac, vfs.seen[1].trust) == (THEIRS, True)
        reload(service, tmp_path, unconfigured="closed")
        assert [seen.vlan for seen in vfs.seen] == [0, 0, 5]


def test_vfs_that_are_made_anew_get_back_what_they_had_and_new_ones_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vfs = vfs_of_two_managers()
    files = {"a": MINE}
    with (
        plain_pf("ice", vfs) as device,
        daemon_on(device, tmp_path, monkeypatch, files, unconfigured="leave", strict=False) as (
            service,
            managed,
        ),
    ):
        vfs.calls.clear()
        monkeypatch.setattr(
            type(device.device), "set_num_vfs", made_anew(vfs, device.device.path / "sriov_numvfs")
        )
        set_vfs(service, managed.id, 4, force=False)
        assert called(vfs) == {0, 1}
        assert (vfs.seen[0].vlan, vfs.seen[0].mac) == (5, MINE["vm_mac"])
        assert (vfs.seen[1].vlan, vfs.seen[1].mac, vfs.seen[1].trust) == (77, THEIRS, True)
        assert managed.condition == "ok", managed.detail


def made_anew(vfs: PlainVfs, numvfs: Path) -> object:
    def set_num_vfs(_device: object, count: int) -> None:
        vfs.seen[:] = [VfSeen() for _ in range(count)]
        numvfs.write_text(f"{count}\n")

    return set_num_vfs


def test_in_switchdev_mode_vfs_can_not_be_left() -> None:
    def nobody() -> Any:
        raise AssertionError("nothing is read")

    nothing: Any = None
    surface = SwitchdevSurface(nothing, nothing, PfPolicy(id="p"), nobody, nobody, link_limit=None)
    can = surface.pf_capabilities()
    assert set(pf_shortfalls(PfPolicy(id="p", unconfigured="leave"), can)) == {"unconfigured"}
    assert set(pf_shortfalls(PfPolicy(id="p"), can)) == set()
