"""A software NIC is removed by its daemon: from the host and from vfd.cfg, and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from vfd.daemon import pfs
from vfd.daemon.failures import RefusedError
from vfd.daemon.service import Service
from vfd.nic.protocol import Event, EventKind

from .harness import Vfd
from .plain_nic import nic_of


def netdevs(vfd: Vfd) -> list[str]:
    """What is left of the NIC, in the daemon's namespace and by its own."""
    shown = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    return [line for line in shown.splitlines() if vfd.pf in line] + [
        str(path) for path in Path("/run/netns").glob(f"*{vfd.pf}*")
    ]


def test_a_software_nic_is_removed_from_the_host_and_from_the_main_file(vfd: Vfd) -> None:
    vfd.main["comment"] = "the operator's own words"
    vfd.main["pciids"].append({"id": f"{vfd.pf}b", "backend": "soft", "vfs": 1})
    vfd.write_main()
    vfd.reload()
    assert netdevs(vfd) != []
    status, answer = vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}b")
    assert status == 200, answer
    status, answer = vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}")
    assert status == 200, answer
    assert netdevs(vfd) == []
    assert vfd.get("/v1/pfs")["pfs"] == []
    kept = json.loads(vfd.config.read_text())
    assert (kept["comment"], kept["pciids"]) == ("the operator's own words", [])
    assert vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}")[0] == 404
    vfd.stop()
    vfd.start()
    assert netdevs(vfd) == []


def test_a_nic_whose_vfs_are_in_use_is_removed_only_by_force(vfd: Vfd, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    vfd.add("vm1", vfd.vf(0, stop_cb=f"touch {stopped}"))
    subprocess.run(["ip", "link", "set", f"{vfd.pf}v1", "up"], check=True)
    status, error = vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}")
    assert (status, error["exit"]) == (422, 3)
    assert {p["other"] for p in error["problems"]} == {"vm1", f"{vfd.pf}:1"}
    assert not stopped.exists()
    assert vfd.row(0)["state"] == "ok"
    assert vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}?force=true")[0] == 200
    assert stopped.exists()
    assert netdevs(vfd) == []
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert (bad["file"], bad["problems"][0]["field"]) == ("vm1.json", "pciid")
    vfd.write_main()
    vfd.reload()
    assert vfd.row(0)["name"] == "vm1"


def test_a_nic_becomes_one_for_the_other_kind_of_guest_by_being_removed(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.start()
    vfd.main["pciids"][0]["guest"] = "tap"
    vfd.write_main()
    vfd.reload()
    assert "remove the NIC" in vfd.get("/v1/health")["pfs"][0]["detail"]
    assert vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}?force=true")[0] == 200
    assert netdevs(vfd) == []
    vfd.write_main()
    vfd.reload()
    assert vfd.get("/v1/health")["pfs"][0]["state"] == "ok"


def test_a_nic_taken_out_of_the_main_file_stays_and_is_told_how_to_take_away(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    listed = vfd.main["pciids"]
    vfd.main["pciids"] = []
    vfd.write_main()
    vfd.reload()
    assert netdevs(vfd) != []
    [told] = vfd.events("released")
    assert f"list it again, reload, and: iplex pf remove {vfd.pf}" in told["text"]
    vfd.main["pciids"] = listed
    vfd.write_main()
    vfd.reload()
    assert vfd.row(0)["state"] == "ok"
    assert vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}?force=true")[0] == 200
    assert netdevs(vfd) == []


def test_hardware_can_not_be_removed(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd(pciids=[{"id": "0000:ff:1f.7", "backend": "kernel"}])
    vfd.start()
    status, error = vfd.ask("DELETE", "/v1/pfs/0000:ff:1f.7?force=true")
    assert (status, "only a software NIC" in error["detail"]) == (422, True)
    vfd.main["pciids"] = []  # nothing for clean_up to remove


@pytest.mark.parametrize("judged", [pfs.removal, partial(pfs.going, vfs=2)])
def test_a_guest_that_took_a_vf_a_moment_ago_keeps_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, judged: Callable[..., object]
) -> None:
    """The NIC shows what it heard: what it still has to tell is listened to first."""
    [managed] = service.nics.values()
    managed.pf = managed.pf.model_copy(update={"backend": "soft"})
    nic = nic_of(service)
    left: list[list[Event]] = [[], [Event(EventKind.GUEST_COME, 3)], [], []]
    tell = nic.events

    def events() -> list[Event]:
        tell()
        told = left.pop(0) if left else []
        if told:
            nic.held = True
        if left:
            nic.ring()
        return told

    monkeypatch.setattr(nic, "events", events)
    nic.ring()
    with pytest.raises(RefusedError, match="VF 3 would go, and a guest holds it"):
        judged(service, managed.id, force=False)
    assert left == []


def test_a_guest_that_comes_and_goes_without_end_holds_up_no_request(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    [managed] = service.nics.values()
    nic = nic_of(service)
    tell = nic.events

    def events() -> list[Event]:
        nic.ring()
        return [*tell(), Event(EventKind.GUEST_COME, 3), Event(EventKind.GUEST_GONE, 3)]

    monkeypatch.setattr(nic, "events", events)
    nic.ring()
    assert pfs.going(service, managed.id, 2, force=False) == []
