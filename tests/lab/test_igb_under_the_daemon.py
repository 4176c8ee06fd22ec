"""The real daemon on the emulated 82576, with the kernel's own igb and igbvf.

One daemon for all tests, which take it as the one before left it: starting Python takes ten
seconds here. VF 2 is from a file that was there at the start, and stays; the tests use the others.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.machine import igb_device
from lab.qmp import Qmp
from tests.lab.daemon import LabDaemon, ip, kernel_shows, netdev_of, until
from tests.lab.igb import (
    AS_ASKED,
    CLOSED,
    DEVICE,
    PF,
    STAYS,
    hold_to_200_ms,
    pf_name,
    repair_times,
    shows,
    vf_address,
)

from vfd.nic import kernel
from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.sriov import write_patiently
from vfd.nic.netlink import Netlink
from vfd.nic.protocol import NicError
from vfd.policy.values import PfPolicy


@pytest.fixture(scope="module")
def vfd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabDaemon]:
    daemon = LabDaemon(tmp_path_factory.mktemp("vfd"), {"id": PF, "vfs": 7})
    daemon.write("stays", {"name": "stays", **STAYS})
    daemon.start()
    yield daemon
    daemon.kill()


def test_at_the_start_all_vfs_are_made_and_files_are_in_force(vfd: LabDaemon) -> None:
    assert len(DEVICE.vfs()) == 7
    assert kernel_shows(pf_name(), 2) == AS_ASKED
    assert vfd.row(PF, 2)["state"] == "ok"
    for vfid in (0, 1, 3, 4, 5, 6):
        assert kernel_shows(pf_name(), vfid) == CLOSED
    assert vfd.must("GET", "/v1/health")["status"] == "ok"


def test_every_attribute_has_what_enforces_it_or_a_reason_and_what_follows(vfd: LabDaemon) -> None:
    caps = vfd.must("GET", f"/v1/pfs/{PF}/caps")
    for each in (*caps["vf"], *caps["pf_attributes"]):
        if each["support"] == "absent":
            assert each["reason"], each
            assert each["consequence"], each
            assert "nothing" not in each["reason"]
        else:
            assert each["by"], each
    support = {each["attribute"]: each["support"] for each in caps["vf"]}
    assert support["vm_mac"] == support["trust"] == "enforced"
    assert support["vlans"] == support["rate"] == "limited"
    assert support["mirror"] == support["link_status"] == support["strip_stag"] == "absent"
    assert caps["counters"] == []
    assert caps["max_vfs"] == 7


def test_a_closed_vf_is_shown_with_what_igb_cannot_close(vfd: LabDaemon) -> None:
    caps = vfd.must("GET", f"/v1/pfs/{PF}/caps")
    closed = next(each for each in caps["vf"] if each["attribute"] == "closed")
    assert closed["support"] == "limited"
    row = vfd.row(PF, 0)
    assert row["state"] == "closed"
    assert any(closed["consequence"] in warning for warning in row["warnings"])


def test_iplex_adds_a_vf_which_reads_back_as_asked(vfd: LabDaemon) -> None:
    vfd.write(
        "by-iplex",
        {
            "name": "by-iplex",
            "pciid": PF,
            "vfid": 1,
            "vlans": [4094],
            "strip_ctag": True,
            "vm_mac": "02:00:00:00:00:01",
            "rate": "500Mbps",
            "mac_anti_spoof": False,
            "trust": True,
        },
    )
    iplex(vfd, "add", "by-iplex")
    asked = {"mac": "02:00:00:00:00:01", "vlan": 4094, "rate": 500, "spoofchk": False}
    assert kernel_shows(pf_name(), 1) == {**asked, "trust": True}
    shown = vfd.must("GET", vfd.vf("by-iplex"))
    assert shown["differences"] == []


def test_an_idle_vfs_driver_takes_the_new_mac(vfd: LabDaemon) -> None:
    assert vfd.row(PF, 1)["mac"] == "02:00:00:00:00:01"
    address = Path("/sys/class/net") / netdev_of(vf_address(1)) / "address"
    assert address.read_text().strip() == "02:00:00:00:00:01"


def test_iplex_update_changes_what_differs_and_delete_closes(vfd: LabDaemon) -> None:
    config = {
        "name": "by-iplex",
        "pciid": PF,
        "vfid": 1,
        "vlans": [7],
        "strip_ctag": True,
        "vm_mac": "02:00:00:00:00:01",
    }
    vfd.write("by-iplex", config)
    iplex(vfd, "update", "by-iplex")
    asked = {"mac": "02:00:00:00:00:01", "vlan": 7, "rate": 0, "spoofchk": True, "trust": False}
    assert kernel_shows(pf_name(), 1) == asked
    iplex(vfd, "delete", "by-iplex")
    assert kernel_shows(pf_name(), 1) == CLOSED
    assert kernel_shows(pf_name(), 2) == AS_ASKED
    assert not (vfd.config_dir / "by-iplex.json").exists()


def iplex(vfd: LabDaemon, *words: str) -> None:
    command = [str(Path(sys.executable).with_name("iplex")), "--socket", str(vfd.socket), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wanted", "field", "word"),
    [
        ({"vlans": [1, 2]}, "vlans", "strip_ctag"),
        ({"vlans": [5], "strip_stag": True}, "strip_stag", "802.1"),
        ({"vlans": [4095], "strip_ctag": True}, "vlans", "4094"),
        ({"vlans": [5], "strip_ctag": True, "min_rate": 0.1}, "min_rate", "mlx5_core"),
        ({"vlans": [5], "strip_ctag": True, "link_status": "off"}, "link_status", "ixgbe"),
        ({"vlans": [5], "strip_ctag": True, "mirror": {"target": 2}}, "mirror", "switchdev"),
        ({"vlans": [5], "strip_ctag": True, "mtu": 1400}, "mtu", "a software NIC"),
        ({"vlans": [5], "strip_ctag": True, "vm_mac": STAYS["vm_mac"]}, "vm_mac", "stays"),
    ],
)
def test_what_igb_cannot_do_is_refused_at_the_door_with_the_reason(
    vfd: LabDaemon, wanted: dict[str, Any], field: str, word: str
) -> None:
    status, answer = vfd.add("refused", {"pciid": PF, "vfid": 3, **wanted})
    assert status == 422, answer
    problem = next(each for each in answer["problems"] if each["field"].startswith(field))
    assert word in problem["rule"] + str(problem["other"])
    assert kernel_shows(pf_name(), 3) == CLOSED


DRIFTS: dict[str, dict[str, Any]] = {
    "vlan": {"vlan": 4095},
    "its priority": {"vlan": 200, "qos": 3},
    "mac": {"mac": "02:00:00:00:00:99"},
    "spoofchk": {"spoofchk": False},
    "trust": {"trust": True},
    "rate": {"max_tx_mbps": 0},
}


@pytest.mark.measured
def test_settings_changed_by_hand_are_repaired_within_200_ms_and_reported(vfd: LabDaemon) -> None:
    hold_to_200_ms(lambda: repair_times(vfd, DRIFTS))


def test_the_pfs_mtu_and_mode_changed_by_hand_are_repaired_and_reported(vfd: LabDaemon) -> None:
    for by_hand, flag in (("mtu 1400", "mtu"), ("promisc on", "promiscuous")):
        seen = vfd.last_event()
        ip("link", "set", pf_name(), *by_hand.split())
        assert flag in vfd.told(seen, "drift")
        (link,) = json.loads(ip("-j", "link", "show", pf_name()))
        assert link["mtu"] == 1500
        assert "PROMISC" not in link["flags"]


@pytest.mark.usefixtures("vfd")
def test_what_changed_while_the_pf_was_down_is_repaired_when_it_is_up() -> None:
    """Of a PF that is down the kernel tells nothing (netdev_state_change)."""
    ip("link", "set", pf_name(), "down")
    ip("link", "set", pf_name(), "vf", "2", "vlan", "7")
    ip("link", "set", pf_name(), "up")
    until("the policy", lambda: shows(2, AS_ASKED))


def test_a_guest_that_comes_and_goes_is_told_and_keeps_the_policy(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    address = vf_address(2)
    bind_to = Path("/sys/bus/pci/drivers/igbvf")
    write_patiently(bind_to / "unbind", address)
    assert "no driver" in vfd.told(seen, "guest-gone", 2)
    write_patiently(bind_to / "bind", address)
    assert "igbvf" in vfd.told(seen, "guest-come", 2)
    assert kernel_shows(pf_name(), 2) == AS_ASKED


def test_a_vf_comes_back_from_a_namespace_that_is_deleted(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    address = vf_address(2)
    netns = f"guest-{os.getpid()}"
    ip("netns", "add", netns)
    ip("link", "set", netdev_of(address), "netns", netns)
    assert "another network namespace" in vfd.told(seen, "guest-come", 2)
    assert vfd.row(PF, 2)["extended"]["held"]
    ip("netns", "del", netns)
    until("the netdev", lambda: netdev_of(address))
    vfd.told(seen, "guest-gone", 2)
    assert kernel_shows(pf_name(), 2) == AS_ASKED


def test_a_cut_cable_is_told_and_shown_and_the_policies_hold(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    with Qmp() as qmp:
        qmp.set_link("igb0", up=False)
        assert "down" in vfd.told(seen, "link")
        assert vfd.row(PF, 2)["link"] == "down"
        limited = {"pciid": PF, "vfid": 1, "vlans": [7], "strip_ctag": True, "rate": "1Gbps"}
        status, answer = vfd.add("limited", limited)
        assert (status, "only with the link up" in answer["detail"]) == (503, True), answer
        seen = vfd.last_event()
        qmp.set_link("igb0", up=True)
        assert "up" in vfd.told(seen, "link")
    until("the policy", lambda: shows(2, AS_ASKED))
    until("the daemon", lambda: vfd.row(PF, 2)["link"] == "up")


def test_a_pf_that_was_down_is_told_with_what_its_guests_must_do(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    ip("link", "set", pf_name(), "down")
    ip("link", "set", pf_name(), "up")
    assert "takes it down and up" in vfd.told(seen, "vf-reset")
    until("the policy", lambda: shows(2, AS_ASKED))


def test_vfs_removed_by_hand_are_made_again_with_their_policies(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    DEVICE.set_num_vfs(0)
    until("seven VFs", lambda: len(DEVICE.vfs()) == 7)
    until("the policy", lambda: shows(2, AS_ASKED))
    until("the others closed", lambda: shows(6, CLOSED))
    assert "repaired" in vfd.told(seen, "drift")
    until("the daemon", lambda: vfd.row(PF, None)["state"] == "ok")


def test_a_change_of_the_count_takes_all_vfs_so_it_must_be_forced(vfd: LabDaemon) -> None:
    netdev = netdev_of(vf_address(2))
    ip("link", "set", netdev, "up")
    status, answer = vfd.ask("PATCH", f"/v1/pfs/{PF}", {"vfs": 5, "force": False})
    assert status in (409, 422), answer
    assert netdev in str(answer)
    assert DEVICE.num_vfs() == 7
    vfd.must("PATCH", f"/v1/pfs/{PF}", {"vfs": 5, "force": True})
    assert DEVICE.num_vfs() == 5
    assert kernel_shows(pf_name(), 2) == AS_ASKED
    assert kernel_shows(pf_name(), 4) == CLOSED
    vfd.must("PATCH", f"/v1/pfs/{PF}", {"vfs": 7, "force": True})
    assert kernel_shows(pf_name(), 2) == AS_ASKED


def test_new_vfs_have_their_vlan_before_the_link_is_up_for_their_rate(vfd: LabDaemon) -> None:
    """Making VFs resets the link, igb takes rates only while it is up, and new VFs are open."""
    shown, ended = [], threading.Event()

    def watch() -> None:
        netlink, index = Netlink(), DEVICE.uplink()[1]
        while not ended.is_set():
            if (vf := read_link(netlink, index).vfs.get(2)) is not None:
                shown.append((vf.vlan, vf.max_tx_mbps))
        netlink.close()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        vfd.must("PATCH", f"/v1/pfs/{PF}", {"vfs": 6, "force": True})
        vfd.must("PATCH", f"/v1/pfs/{PF}", {"vfs": 7, "force": True})
    finally:
        ended.set()
        watching.join(60)
    assert (200, 0) in shown
    assert shown[-1] == (200, 300)


def test_more_vfs_than_the_nic_has_are_refused(vfd: LabDaemon) -> None:
    status, answer = vfd.ask("PATCH", f"/v1/pfs/{PF}", {"vfs": 8, "force": True})
    assert status >= 400
    assert "7" in str(answer)
    assert DEVICE.num_vfs() == 7


def test_a_pf_whose_driver_was_unbound_is_lost_and_then_as_before(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    driver = Path("/sys/bus/pci/drivers/igb")
    write_patiently(driver / "unbind", PF)
    assert "unbound" in vfd.told(seen, "lost")
    assert vfd.row(PF, None)["state"] == "lost"
    write_patiently(driver / "bind", PF)
    ip("link", "set", until("the netdev", lambda: netdev_of(PF)), "up")
    vfd.told(seen, "back")
    until("the policy", lambda: shows(2, AS_ASKED))
    until("the daemon", lambda: vfd.row(PF, None)["state"] == "ok")


def test_a_pf_whose_netdev_was_in_another_namespace_is_lost_and_then_as_before(
    vfd: LabDaemon,
) -> None:
    seen = vfd.last_event()
    netns = f"away-{os.getpid()}"
    ip("netns", "add", netns)
    name = pf_name()
    ip("link", "set", name, "netns", netns)
    assert "netdev" in vfd.told(seen, "lost")
    assert vfd.row(PF, None)["state"] == "lost"
    ip("-n", netns, "link", "set", name, "netns", "1")
    vfd.told(seen, "back")
    ip("link", "set", pf_name(), "up")
    ip("netns", "del", netns)
    until("the policy", lambda: shows(2, AS_ASKED))
    until("the daemon", lambda: vfd.row(PF, None)["state"] == "ok")


def test_a_pf_that_was_pulled_and_put_back_is_as_before(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    with Qmp() as qmp:
        qmp.unplug("igb0")
        vfd.told(seen, "lost")
        status, _ = vfd.add("too-early", {"pciid": PF, "vfid": 4, "vlans": [4], "strip_ctag": True})
        assert status >= 500
        qmp.plug(igb_device(0))
    ip("link", "set", until("the netdev", lambda: netdev_of(PF)), "up")
    vfd.told(seen, "back")
    until("the policy", lambda: shows(2, AS_ASKED))
    until("the daemon", lambda: vfd.row(PF, None)["state"] == "ok")
    assert len(DEVICE.vfs()) == 7


def test_killed_while_it_configures_the_daemon_ends_where_its_files_say(vfd: LabDaemon) -> None:
    """The files are not all gone at once, which would be taken for a mount that is missing."""
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    rng = random.Random(seed)
    status, answer = vfd.add("k0", {"pciid": PF, "vfid": 0, "vlans": [9], "strip_ctag": True})
    assert status == 201, answer
    for turn in range(2):
        for vfid in (0, 1, 3):
            policy = {
                "vlans": [10 * turn + vfid + 1],
                "strip_ctag": True,
                "vm_mac": killed_mac(vfid),
            }
            vfd.write(f"k{vfid}", {"name": f"k{vfid}", "pciid": PF, "vfid": vfid, **policy})
        (vfd.config_dir / "stays.json").unlink(missing_ok=True)
        assert vfd.process
        vfd.process.send_signal(signal.SIGHUP)  # four VFs change, then three
        time.sleep(rng.uniform(0, 1.5))
        vfd.kill()
        vfd.spawn()
        time.sleep(rng.uniform(5, 15))
        vfd.kill()
        vfd.start()
        for vfid in (0, 1, 3):
            asked = {"mac": killed_mac(vfid), "vlan": 10 * turn + vfid + 1, "rate": 0}
            assert kernel_shows(pf_name(), vfid) == {**asked, "spoofchk": True, "trust": False}
        for vfid in (2, 4, 5, 6):
            assert kernel_shows(pf_name(), vfid) == CLOSED


def killed_mac(vfid: int) -> str:
    return f"02:00:00:00:01:{vfid:02x}"


def test_a_pf_that_is_listed_by_its_address_and_its_netdev_is_told_beforehand(
    tmp_path: Path,
) -> None:
    main = tmp_path / "vfd.cfg"
    main.write_text(json.dumps({"config_dir": str(tmp_path), "pciids": [PF, pf_name()]}))
    command = [sys.executable, "-m", "vfd.main", "--check", "--config", str(main)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3
    assert f"pciids[0] ({PF}) is this device too" in done.stdout + done.stderr


def test_the_daemon_refuses_a_nic_without_vf_operations_and_goes_on(vfd: LabDaemon) -> None:
    main = json.loads(vfd.main_file.read_text())
    main["pciids"].append({"id": "plain0", "backend": "kernel"})
    vfd.main_file.write_text(json.dumps(main))
    assert vfd.process
    vfd.process.send_signal(signal.SIGHUP)

    def plain() -> dict[str, Any] | None:
        pfs = vfd.must("GET", "/v1/health")["pfs"]
        found = next((pf for pf in pfs if pf["id"] == "plain0"), None)
        return found if found and "no VF operations" in found["detail"] else None

    found = until("plain0 to be refused", plain)
    assert found["state"] == "failed"
    assert "software NIC" in found["detail"]
    assert vfd.row(PF, None)["state"] == "ok"


def test_a_nic_without_vf_operations_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(NicError, match=r"no VF operations.*software NIC"):
        kernel.open(PfPolicy(id="plain0"))
