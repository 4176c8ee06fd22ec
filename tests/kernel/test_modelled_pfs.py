"""Vendors' interfaces as the daemon meets them: a PF made of models, behind the backend's NIC and
the daemon's door."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.modelled import Modelled
from tests.kernel.modelled_nic import ADDRESS, ModelledPf, modelled_pf, plain_pf
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.config.main_file import parse_main
from vfd.daemon import pfs
from vfd.daemon.failures import RefusedError
from vfd.daemon.files import Files
from vfd.daemon.journal import Journal
from vfd.daemon.loading import judge_again
from vfd.daemon.managed import Condition, Managed
from vfd.daemon.request import Source
from vfd.daemon.service import Service
from vfd.daemon.zero import Zero
from vfd.nic.protocol import Support

pytestmark = pytest.mark.root
CLASSES = [{"pri": pri, "max_bw": 50} for pri in range(4)]


@contextmanager
def daemon_on(
    device: ModelledPf,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    enable_qos: bool = False,
    **pf: Any,
) -> Iterator[tuple[Service, Managed]]:
    """The daemon's service on this PF, started with these files in ``config_dir``."""
    config_dir = folder / "vfs"
    config_dir.mkdir()
    for name, config in (files or {}).items():
        (config_dir / f"{name}.json").write_text(json.dumps(vf(**config)))
    main_file = folder / "vfd.cfg"
    pciids = [{"id": ADDRESS, "backend": "kernel", **pf}]
    main_file.write_text(
        json.dumps({"config_dir": str(config_dir), "enable_qos": enable_qos, "pciids": pciids})
    )
    main = parse_main(main_file.read_text(), file=str(main_file)).config
    monkeypatch.setattr("vfd.daemon.managed.open_nic", device.open)
    # tests that run beside this one have a NIC of the same address
    monkeypatch.setattr("vfd.daemon.exclusive.LOCKS", folder / "locks")
    service = Service(Files(main_file, main), main, Journal(), Zero(folder / "zero"), "test")
    try:
        service.start()
        yield service, service.nics[ADDRESS]
    finally:
        service.stop()


def reload(service: Service, folder: Path, **pf: Any) -> None:
    """The daemon reads its main file again, in which the PF is now another."""
    main_file = folder / "vfd.cfg"
    main = json.loads(main_file.read_text())
    main["pciids"][0] |= pf
    main_file.write_text(json.dumps(main))
    service.reload(parse_main(main_file.read_text(), file=str(main_file)).config)


def vf(**config: Any) -> dict[str, Any]:
    return {"pciid": ADDRESS, **config}


def add(service: Service, name: str, **config: Any) -> None:
    service.add(Source(name=name, config=vf(**config)), 0, 0)


@pytest.fixture
def x710() -> Iterator[tuple[ModelledPf, Modelled]]:
    with modelled_pf("intel") as made:
        yield made


def test_traffic_classes_and_shares_come_into_force_on_the_x710(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, model = x710
    shares = [{"priority": tc, "share": 30} for tc in range(4)]
    files = {"a": {"vfid": 0, "vlans": [5, 6], "queues": shares, "rate": "230Mbps"}}
    with daemon_on(
        device, tmp_path, monkeypatch, files, enable_qos=True, tclasses=CLASSES, vfs=4
    ) as (service, managed):
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert not service.bad
        assert model.text("qos/1/priority") == "2,3,"
        assert model.text("qos/1/max_bw") == "5000"
        assert model.vf(0)["applied_share"][:4] == [30, 30, 30, 30]
        assert model.vf(0)["tc_rate"] == [200, 200, 200, 200, 0, 0, 0, 0]
        assert model.vf(0)["max_tx_rate"] == 0
        by = managed.working().capabilities.pf["enable_qos"].by
        assert by == "sysfs:i40e"


def test_traffic_classes_that_are_switched_on_later_are_written(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what the NIC can't enforce is accepted: it must not count as that."""
    device, model = x710
    files = {"a": {"vfid": 1, "vlans": [5, 6], "rate": "1Gbps"}}
    with daemon_on(device, tmp_path, monkeypatch, files, vfs=4, strict=False) as (service, managed):
        assert model.vf(1)["max_tx_rate"] == 1000
        assert managed.condition is Condition.OK
        after = managed.pf.model_copy(update={"enable_qos": True})
        managed.go(managed.aim_at(after, managed.vfs))
        assert model.text("qos/3/priority") == "6,7,"
        assert model.vf(1)["tc_rate"][:4] == [1000, 1000, 1000, 1000]
        assert model.vf(1)["max_tx_rate"] == 0
        assert not service.bad


@pytest.mark.parametrize("vfs", [0, 4])
def test_trunks_macs_and_mirrors_on_the_x710_are_in_force_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vfs: int
) -> None:
    """After a host's boot there are no VFs yet, and so no files of the driver."""
    files = {
        "a": {
            "vfid": 1,
            "vlans": [2, "10-20"],
            "macs": ["02:11:00:00:00:01"],
            "mirror": {"target": 3, "direction": "in"},
        },
        "b": {"vfid": 3, "vlans": [7, 8], "allow_bcast": False},
    }
    with (
        modelled_pf("intel", vfs=vfs) as (device, model),
        daemon_on(device, tmp_path, monkeypatch, files, vfs=4) as (service, managed),
    ):
        assert not service.bad
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert model.text("1/trunk") == "2,10-20"
        assert model.vf(1)["ingress_mirror"] == 3
        assert model.vf(3)["allow_bcast"] is False
        assert [of["enable"] for of in model.state()["vfs"]] == [False, True, False, True]


@pytest.mark.parametrize("vfs", [0, 4])
def test_the_pfs_tpid_and_classes_are_in_force_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vfs: int
) -> None:
    files = {"a": {"vfid": 0, "vlans": [5, 6], "strip_stag": True}}
    with (
        modelled_pf("intel", vfs=vfs) as (device, model),
        daemon_on(
            device,
            tmp_path,
            monkeypatch,
            files,
            vfs=4,
            tpid="0x88a8",
            enable_qos=True,
            tclasses=CLASSES,
        ) as (service, managed),
    ):
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert not service.bad
        assert model.state()["tpid"] == 0x88A8
        assert model.text("qos/1/priority") == "2,3,"


def test_without_vfs_a_pf_of_the_x710_is_well_and_its_classes_come_with_the_vfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a": {"vfid": 2, "vlans": [5, 6]}}
    with (
        modelled_pf("intel", vfs=0) as (device, model),
        daemon_on(
            device, tmp_path, monkeypatch, files, vfs=0, enable_qos=True, tclasses=CLASSES
        ) as (service, managed),
    ):
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        pfs.set_vfs(service, ADDRESS, 4, force=False)
        assert model.text("qos/1/priority") == "2,3,"
        assert model.text("2/trunk") == "5-6"
        assert not service.bad


def test_classes_that_the_kernels_own_i40e_lacks_are_refused_once_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the driver is Intel's shows with the first VF."""
    in_tree = PlainVfs([])
    with (
        plain_pf("i40e", in_tree) as device,
        daemon_on(device, tmp_path, monkeypatch, vfs=0, enable_qos=True) as (service, managed),
    ):
        assert managed.condition is Condition.OK
        in_tree.seen += [VfSeen() for _ in range(2)]
        with pytest.raises(RefusedError, match="enable_qos"):
            pfs.set_vfs(service, ADDRESS, 2, force=False)


def test_a_vlan_list_on_connectx_is_in_force_after_a_start_without_vfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a": {"vfid": 1, "vlans": [5, 6]}, "b": {"vfid": 0, "vlans": [9], "strip_ctag": True}}
    with (
        modelled_pf("mellanox", vfs=0) as (device, model),
        daemon_on(device, tmp_path, monkeypatch, files, vfs=2) as (service, managed),
    ):
        assert not service.bad
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert model.vf(1)["trunk"] == [5, 6]
        assert model.vf(0)["vlan"] == 9


@pytest.mark.parametrize("driver", ["i40e", "mlx5_core"])
def test_the_kernels_own_driver_without_the_vendors_sysfs_takes_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    files = {"a": {"vfid": 1, "vlans": [5], "strip_ctag": True, "vm_mac": "02:00:00:00:00:01"}}
    in_tree = PlainVfs([VfSeen() for _ in range(2)])
    with (
        plain_pf(driver, in_tree) as device,
        daemon_on(device, tmp_path, monkeypatch, files) as (service, managed),
    ):
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert not service.bad
        assert in_tree.seen[1].vlan == 5
        assert [of.link_state for of in in_tree.seen] == [2, 0]


def test_a_tpid_that_turns_a_guests_vlan_list_into_another_is_undone(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device has one TPID for the lists of all its VFs."""
    device, model = x710
    files = {"a": {"vfid": 1, "vlans": [5, 6]}}
    with daemon_on(device, tmp_path, monkeypatch, files, vfs=4) as (_, managed):
        after = managed.pf.model_copy(update={"tpid": 0x88A8})
        with pytest.raises(RefusedError, match="one TPID for the lists"):
            managed.go(managed.aim_at(after, managed.vfs))
        assert model.state()["tpid"] == 0x8100
        assert model.text("1/trunk") == "5-6"


def test_a_vlan_list_that_a_reloaded_tpid_takes_away_is_refused_and_its_vf_closed(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, model = x710
    files = {"a": {"vfid": 1, "vlans": [5, 6]}, "b": {"vfid": 2, "vlans": [7], "strip_ctag": True}}
    with daemon_on(device, tmp_path, monkeypatch, files, vfs=4) as (service, managed):
        reload(service, tmp_path, tpid="0x88a8")
        assert "one TPID for the lists" in str(service.bad["a.json"].problems[0])
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert [vf["enable"] for vf in model.state()["vfs"]] == [False, False, True, False]


def test_an_mtu_is_refused_where_it_is_stated_and_warned_of_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest chooses its MTU itself: no driver lets the host say."""
    with (
        plain_pf("ice", PlainVfs([VfSeen() for _ in range(2)])) as device,
        daemon_on(device, tmp_path, monkeypatch) as (service, managed),
    ):
        with pytest.raises(RefusedError, match=r"mtu = 1400.*a software NIC"):
            add(service, "a", vfid=0, vlans=[5], strip_ctag=True, mtu=1400)
        with pytest.raises(RefusedError, match=r"allow_un_ucast = true.*set trust"):
            add(service, "a", vfid=0, vlans=[5], strip_ctag=True, allow_un_ucast=True)
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True, trust=True)
        assert managed.aim
        [mtu] = [text for text in managed.aim.warnings[0] if text.startswith("mtu")]
        assert "this guest chooses its MTU" in mtu
        assert any(text.startswith("allow_un_ucast") for text in managed.aim.warnings[0])


def test_service_access_on_connectx_with_ofed_pushes_802_1ad_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a": {"vfid": 1, "vlans": [9], "strip_stag": True}}
    with (
        modelled_pf("mellanox", vfs=0) as (device, model),
        daemon_on(device, tmp_path, monkeypatch, files, vfs=2, tpid="0x88a8") as (service, managed),
    ):
        assert not service.bad
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert (model.vf(1)["vlan"], model.vf(1)["proto"]) == (9, "802.1ad")
        assert managed.seen
        assert (rules := managed.seen.vfs[1].rules) is not None
        assert rules.strip_stag is True


def test_service_access_needs_the_pfs_tpid_and_comes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port VLAN of 0x8100 is customer access: it takes no guest's own tags along."""
    vfs = PlainVfs([VfSeen() for _ in range(2)])
    files = {"a": {"vfid": 0, "vlans": [9], "strip_stag": True}}
    with (
        plain_pf("ice", vfs) as device,
        daemon_on(device, tmp_path, monkeypatch, files) as (service, managed),
    ):
        assert "tpid" in str(service.bad["a.json"].problems[0])
        reload(service, tmp_path, tpid="0x88a8")
        assert not service.bad
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert (vfs.seen[0].vlan, vfs.seen[0].proto) == (9, "802.1ad")


@pytest.mark.parametrize("driver", ["ixgbe", "ice"])
def test_where_no_service_tag_may_be_pushed_the_vlan_is_held_with_customer_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    """Accepted with a warning: the guest may not be left with every VLAN for it."""
    vfs = PlainVfs([VfSeen() for _ in range(2)])
    if driver == "ixgbe":
        vfs.refuses["vlan", "9", "0", "802.1ad"] = errno.EPROTONOSUPPORT
    files = {"a": {"vfid": 0, "vlans": [9], "strip_stag": True}}
    with (
        plain_pf(driver, vfs) as device,
        daemon_on(device, tmp_path, monkeypatch, files, strict=False) as (service, managed),
    ):
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert (vfs.seen[0].vlan, vfs.seen[0].proto) == (9, "802.1Q")
        assert managed.aim
        assert any("the VLAN's tag is a customer tag" in text for text in managed.aim.warnings[0])
        if driver == "ice":
            reload(service, tmp_path, tpid="0x88a8")
            assert (vfs.seen[0].vlan, vfs.seen[0].proto) == (9, "802.1ad")
        assert not [event for event in service.journal.since(0) if event.kind == "failed"]


def test_a_tpid_that_the_driver_cannot_insert_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        plain_pf("ixgbe", PlainVfs([VfSeen()])) as device,
        daemon_on(device, tmp_path, monkeypatch, tpid="0x88a8") as (_, managed),
    ):
        assert "tpid" in managed.detail
        assert "a software NIC" in managed.detail


def test_what_the_x710s_files_count_is_among_the_counters(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, model = x710
    with daemon_on(device, tmp_path, monkeypatch) as (_, managed):
        model.act("count", "2 tx_errors 7")
        model.act("count", "2 rx_packets 5")
        nic = managed.working()
        assert nic.counters()[2]["tx_errors"] == 7
        assert nic.counters()[2]["rx_packets"] == 5
        assert nic.capabilities.counters >= nic.counters()[2].keys()
        assert not [path for path, _, _ in model.log() if path.endswith("reset_stats")]


def test_guarantees_of_classes_are_refused_on_the_x710(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, _ = x710
    classes = [{"pri": pri, "min_bw": 10} for pri in range(4)]
    with daemon_on(device, tmp_path, monkeypatch, vfs=4, enable_qos=True, tclasses=classes) as (
        _,
        managed,
    ):
        assert "min_bw" in managed.detail
        assert "software NIC" in managed.detail


@pytest.mark.parametrize("stated", [{}, {"enable_loopback": False}, {"enable_loopback": True}])
def test_a_switch_that_cannot_be_turned_off_is_warned_of_and_refused_where_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: dict[str, bool]
) -> None:
    with (
        plain_pf("igb", PlainVfs([VfSeen()])) as device,
        daemon_on(device, tmp_path, monkeypatch, None, **stated) as (_, managed),
    ):
        if stated.get("enable_loopback") is False:
            assert "can't be turned off" in managed.detail
            return
        assert managed.aim
        warned = any("enable_loopback" in text for text in managed.aim.warnings[None])
        assert warned is not bool(stated)


def test_what_a_pf_lacks_is_warned_of_where_that_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        plain_pf("ixgbe", PlainVfs([VfSeen()])) as device,
        daemon_on(device, tmp_path, monkeypatch, strict=False, tclasses=CLASSES) as (_, managed),
    ):
        assert managed.condition is Condition.OK
        assert managed.aim
        assert any(text.startswith("tclasses") for text in managed.aim.warnings[None])


def test_every_refused_attribute_of_a_pf_names_what_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        plain_pf("igb", PlainVfs([VfSeen()])) as device,
        daemon_on(device, tmp_path, monkeypatch) as (_, managed),
    ):
        for name, capability in managed.working().capabilities.pf.items():
            if capability.support is Support.ABSENT:
                assert "software NIC" in capability.reason, name


@pytest.mark.parametrize("vendor", ["intel", "mellanox"])
def test_vfs_that_others_make_later_stay_and_their_files_come_into_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str
) -> None:
    """The configuration leaves the number of VFs open: it is the NIC's."""
    files = {"a": {"vfid": 1, "vlans": [5, 6]}}
    with (
        modelled_pf(vendor, vfs=0) as (device, model),
        daemon_on(device, tmp_path, monkeypatch, files) as (service, managed),
    ):
        assert service.bad
        model.act("numvfs", "4")
        service.converge(managed, found="the number of VFs was changed from outside")
        assert len(model.state()["vfs"]) == 4
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        assert not service.bad
        assert set(model.vf(1)["trunk"]) == {5, 6}


def test_vfs_that_others_remove_come_back_where_one_is_configured(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, model = x710
    files = {"a": {"vfid": 1, "vlans": [5, 6]}}
    with daemon_on(device, tmp_path, monkeypatch, files) as (service, managed):
        model.act("numvfs", "0")
        service.converge(managed, found="the number of VFs was changed from outside")
        assert len(model.state()["vfs"]) == 4
        assert model.vf(1)["trunk"] == [5, 6]
        assert managed.condition is Condition.OK


@pytest.mark.parametrize("pf", [{}, {"vfs": 4}], ids=["open", "stated"])
@pytest.mark.parametrize("vendor", ["intel", "mellanox"])
def test_a_pf_that_comes_back_without_vfs_has_them_and_their_policies_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, pf: Mapping[str, Any]
) -> None:
    files = {"a": {"vfid": 1, "vlans": [5, 6]}}
    with (
        modelled_pf(vendor) as (device, model),
        daemon_on(device, tmp_path, monkeypatch, files, **pf) as (service, managed),
    ):
        model.act("numvfs", "0")
        managed.look()
        judge_again(service, managed, "the PF came back")
        assert not service.bad
        assert len(model.state()["vfs"]) == 4
        assert set(model.vf(1)["trunk"]) == {5, 6}
        assert managed.condition is Condition.OK
        assert managed.pf.vfs == pf.get("vfs")


def test_a_kill_between_making_vfs_and_binding_them_leaves_the_hosts_drivers_on(
    x710: tuple[ModelledPf, Modelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept from VFs that are to have another driver; those that others make are theirs."""
    device, _ = x710
    autoprobe = device.device.path / "sriov_drivers_autoprobe"
    autoprobe.write_text("0\n")
    monkeypatch.setattr("vfd.nic.kernel.pf.bind_idle", lambda *_: None)
    with daemon_on(device, tmp_path, monkeypatch, vfs=4, vf_driver="vfio-pci"):
        assert autoprobe.read_text().strip() == "1"


@pytest.mark.parametrize(
    ("untold", "word", "stated"),
    [
        (VfSeen(trust=None), "trust", {"trust": True}),
        (VfSeen(spoofchk=None), "spoofchk", {"mac_anti_spoof": True}),
    ],
)
def test_what_a_driver_does_not_tell_is_not_counted_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untold: VfSeen,
    word: str,
    stated: dict[str, bool],
) -> None:
    """ndo_get_vf_config leaves it out: there is no such operation, or none to be read back."""
    vfs = PlainVfs([replace(untold) for _ in range(2)])
    vfs.refuses[(word,)] = errno.EOPNOTSUPP
    with (
        plain_pf("some_driver", vfs) as device,
        daemon_on(device, tmp_path, monkeypatch) as (service, managed),
    ):
        assert (managed.condition, managed.detail) == (Condition.OK, "")
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True)
        assert vfs.seen[0].vlan == 5
        with pytest.raises(RefusedError, match=next(iter(stated))):
            add(service, "b", vfid=1, vlans=[6], strip_ctag=True, **stated)


def test_a_pf_that_is_listed_by_two_names_is_told_so_and_the_first_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        plain_pf("ice", PlainVfs([VfSeen()])) as device,
        daemon_on(device, tmp_path, monkeypatch) as (service, managed),
    ):
        main_file = tmp_path / "vfd.cfg"
        main = json.loads(main_file.read_text())
        main["pciids"].append({"id": "ens1f0", "backend": "kernel"})
        main_file.write_text(json.dumps(main))
        service.reload(parse_main(main_file.read_text(), file=str(main_file)).config)
        twin = service.nics["ens1f0"]
        assert twin.detail == f"ens1f0 is the same device as {ADDRESS}: list it once in pciids"
        assert (managed.condition, managed.detail) == (Condition.OK, "")
