"""``"unconfigured": "leave"`` on the emulated 82576: what `ip link set PF vf N …` sets on a VF
without a configuration stays, on one with a configuration it is repaired.

One daemon for all tests, which take it as the one before left it. VF 3 is another manager's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.daemon import LabDaemon, ip, kernel_shows, netdev_of, until
from tests.lab.igb import AS_ASKED, CLOSED, DEVICE, PF, STAYS, pf_name, shows, vf_address

THEIRS: dict[str, Any] = {
    "mac": "52:54:00:00:00:03",
    "vlan": 77,
    "rate": 0,
    "spoofchk": True,
    "trust": True,
}


ENTRY = {"id": PF, "vfs": 7, "unconfigured": "leave"}


def set_by_hand(vfid: int, mac: str, vlan: int = 77) -> None:
    words = ("mac", mac, "vlan", str(vlan), "trust", "on")
    ip("link", "set", pf_name(), "vf", str(vfid), *words)


def as_set(vfid: int, mac: str, vlan: int = 77) -> bool:
    return shows(vfid, THEIRS | {"mac": mac, "vlan": vlan})


@pytest.fixture(scope="module")
def vfd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabDaemon]:
    DEVICE.set_num_vfs(7)
    until("VF 6 is there", lambda: netdev_of(vf_address(6)))
    set_by_hand(3, THEIRS["mac"])
    daemon = LabDaemon(tmp_path_factory.mktemp("vfd"), ENTRY)
    daemon.write("stays", {"name": "stays", **STAYS})
    daemon.start()
    yield daemon
    daemon.kill()
    DEVICE.set_num_vfs(0)


def test_a_start_leaves_other_managers_vfs_as_they_are(vfd: LabDaemon) -> None:
    assert kernel_shows(pf_name(), 2) == AS_ASKED
    assert kernel_shows(pf_name(), 3) == THEIRS
    assert vfd.row(PF, 2)["state"] == "ok"
    assert vfd.row(PF, 3)["state"] == "not-managed"
    assert vfd.must("GET", "/v1/health")["status"] == "ok"


def test_what_is_set_by_hand_stays_on_a_vf_that_is_left_and_is_repaired_on_another(
    vfd: LabDaemon,
) -> None:
    since = vfd.last_event()
    set_by_hand(3, THEIRS["mac"], vlan=78)
    set_by_hand(2, "52:54:00:00:00:02")
    vfd.told(since, "drift", 2)
    until("VF 2 is repaired", lambda: shows(2, AS_ASKED))
    assert as_set(3, THEIRS["mac"], vlan=78)
    assert not [e for e in vfd.events(since) if e["kind"] == "drift" and e["vfid"] == 3]
    assert vfd.row(PF, 3)["mac"] == THEIRS["mac"]


def test_a_change_of_the_pf_and_a_reset_leave_them(vfd: LabDaemon) -> None:
    vfd.write_main(ENTRY | {"mtu": 1400})
    since = vfd.last_event()
    vfd.must("POST", "/v1/reload", {})
    assert vfd.row(PF, None)["extended"]["mtu"] == 1400
    assert as_set(3, THEIRS["mac"], vlan=78)
    ip("link", "set", pf_name(), "down")
    ip("link", "set", pf_name(), "up")
    vfd.told(since, "vf-reset")
    assert as_set(3, THEIRS["mac"], vlan=78)
    assert shows(2, AS_ASKED)


def test_a_deleted_vf_is_closed_and_left_from_then(vfd: LabDaemon) -> None:
    mac = "52:54:00:00:00:04"
    until("the link is up, which a rate needs", lambda: vfd.row(PF, None)["link"] == "up")
    goes = STAYS | {"vfid": 4, "vm_mac": "02:00:00:00:00:04", "vlans": [204]}
    status, answer = vfd.add("goes", goes)
    assert status == 201, answer
    assert kernel_shows(pf_name(), 4)["vlan"] == 204
    vfd.must("DELETE", "/v1/vfs/goes")
    assert kernel_shows(pf_name(), 4) == CLOSED
    since = vfd.last_event()
    set_by_hand(4, mac)
    set_by_hand(2, "52:54:00:00:00:02")  # told once it is repaired, after VF 4 was heard of
    vfd.told(since, "drift", 2)
    assert as_set(4, mac)
    assert vfd.row(PF, 4)["state"] == "not-managed"
