"""MACs that a PF reserves: granted to no guest, taken back where they were, and told."""

from __future__ import annotations

import subprocess

import pytest

from .harness import Vfd, wait_for

GATEWAY = "00:00:5e:00:01:0a"
ENTRY = "00:00:5e:00:01:00/40"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.mark.parametrize("how", ["a reload", "a start"])
def test_a_grant_that_became_reserved_is_taken_back_and_told(vfd: Vfd, how: str) -> None:
    vfd.add("vm1", vfd.vf(1))
    own = vfd.row(1)["mac"]
    ip("link", "set", f"{vfd.pf}v1", "up")  # a guest holds it
    ip("link", "set", f"{vfd.pf}v1", "address", GATEWAY)
    wait_for(lambda: vfd.row(1)["mac"] == GATEWAY)
    if how == "a start":
        vfd.stop()
    vfd.main["pciids"][0]["reserved_macs"] = [ENTRY]
    vfd.write_main()
    if how == "a start":
        vfd.start()
    else:
        vfd.reload()
    assert vfd.row(1)["mac"] == own
    assert vfd.get("/v1/vfs/vm1")["grants"]["default_mac"] is None
    [told] = [e for e in vfd.events("refused") if e["data"].get("mac") == GATEWAY]
    assert (told["vfid"], told["name"]) == (1, "vm1")
    assert "taken back" in told["text"]
    assert ENTRY in told["text"]


def test_what_a_file_in_force_states_is_not_reserved_under_it(vfd: Vfd) -> None:
    vfd.add("router", vfd.vf(0, vm_mac=GATEWAY))
    vfd.main["pciids"][0]["reserved_macs"] = [ENTRY]
    vfd.write_main()
    vfd.reload()
    [bad] = vfd.get("/v1/health")["bad_files"]
    [problem] = bad["problems"]
    assert (problem["field"], problem["other"]) == ("pciids[0].reserved_macs", "router")
    assert ENTRY in problem["rule"]
    assert vfd.row(0)["mac"] == GATEWAY
    config = vfd.vf(0, vm_mac=GATEWAY, trust=True)
    assert vfd.ask("PUT", "/v1/vfs/router", {"config": config})[0] == 200
    vfd.reload()
    assert vfd.get("/v1/health")["bad_files"] == []
    status, answer = vfd.add("other", vfd.vf(1, macs=["00:00:5e:00:01:0b"]))
    assert (status, answer["problems"][0]["field"]) == (422, "macs[0]"), answer


def test_vfs_of_a_software_nic_that_are_left_are_listed_and_pass_nothing(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, guest_macs="none"))
    vfd.main["pciids"][0]["unconfigured"] = "leave"
    vfd.write_main()
    vfd.reload()
    assert [vfd.row(n)["state"] for n in (0, 1)] == ["ok", "not-managed"]
    assert any("pass nothing" in text for text in vfd.get(f"/v1/pfs/{vfd.pf}")["warnings"])
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert vfd.row(0)["state"] == "not-managed"
    assert vfd.row(0)["link"] == "down"
    assert vfd.get("/v1/health")["pfs"][0]["not_managed"] == [0, 1, 2, 3]
