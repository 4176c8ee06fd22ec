"""Bad files and full disks: a clear word, and what was enforced stays enforced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfd.config.main_file import MainConfig
from vfd.config.vf_file import ParsedVf, parse_vf
from vfd.daemon import files, reading

from .harness import Vfd, wait_for


def test_a_bad_file_is_named_and_the_others_come_into_force(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    vfd.put_file("good", vfd.vf(0))
    vfd.put_file("torn", json.dumps(vfd.vf(1))[:-4])
    vfd.put_file("empty", "")
    vfd.put_file("foreign", b"\x89PNG\r\n\x1a\n")
    vfd.put_file("elsewhere", {**vfd.vf(2), "pciid": "0000:ff:1f.7"})
    vfd.put_file("typo", {**vfd.vf(2), "vlan": [1]})
    (vfd.config_dir / "folder.json").mkdir()
    (vfd.config_dir / "nowhere.json").symlink_to("/nonexistent")
    (vfd.config_dir / "secret.json").symlink_to("/etc/shadow")
    os.mkfifo(vfd.config_dir / "pipe.json")
    vfd.start()
    assert vfd.row(0)["name"] == "good"
    bad = {b["file"]: b for b in vfd.get("/v1/health")["bad_files"]}
    names = ("torn", "empty", "foreign", "elsewhere", "typo", "nowhere", "secret", "pipe")
    assert bad.keys() >= {f"{name}.json" for name in names}
    assert "root:" not in json.dumps(bad)
    assert bad["typo.json"]["problems"][0]["field"] == "vlan"
    assert bad["torn.json"]["vfid"] == 1


def test_a_number_beyond_all_bounds_is_a_bad_file_and_the_daemon_starts(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.put_file("good", vfd.vf(0, rate="10Tbps", max_rx_rate="10Tbps", min_rate=0.1))
    huge = {"digits": 10**400, "text": "9" * 10**5 + "Tbps", "fast": "999999999999Gbps"}
    for name, rate in huge.items():
        vfd.put_file(name, vfd.vf(1, rate=rate))
    vfd.start()
    assert vfd.row(0)["state"] == "ok"
    bad = {b["file"]: b["problems"][0]["field"] for b in vfd.get("/v1/health")["bad_files"]}
    assert bad == {f"{name}.json": "rate" for name in huge}
    for rate in huge.values():
        assert vfd.add("vm", vfd.vf(1, rate=rate))[0] == 422
    body = json.dumps({"name": "vm", "config": vfd.vf(1, rate="?")}).replace('"?"', "9" * 5000)
    assert vfd.ask_text("POST", "/v1/vfs", body)[0] in (400, 422)


def test_a_file_that_its_reader_stumbles_over_is_bad_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no such file that we know of: here the reader is made to stumble."""
    vf = {"pciid": "soft0", "vfid": 7, "vlans": [1]}
    for name in ("good", "strange"):
        (tmp_path / f"{name}.json").write_text(json.dumps(vf))

    def stumble(text: bytes, *, file: str, name: str) -> ParsedVf:
        if name != "good":
            raise ZeroDivisionError
        return parse_vf(text, file=file, name=name)

    monkeypatch.setattr(reading, "parse_vf", stumble)
    main = MainConfig(config_dir=str(tmp_path))
    found = files.Files(tmp_path / "vfd.cfg", main).read_all()
    [bad] = found.bad.values()
    assert [one.file for one in found.good] == ["good.json"]
    assert (bad.file, bad.device, bad.vfid) == ("strange.json", "soft0", 7)
    assert "ZeroDivisionError" in bad.problems[0].rule
    assert "Traceback" in caplog.text


def test_of_two_files_for_one_vf_the_older_is_in_force(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    os.utime(vfd.put_file("z-older", vfd.vf(0)), (1000, 1000))
    vfd.put_file("a-newer", vfd.vf(0, vlans=[9]))
    vfd.start()
    assert vfd.row(0)["name"] == "z-older"
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert (bad["file"], bad["problems"][0]["other"]) == ("a-newer.json", "z-older")


def test_a_restart_leaves_that_of_two_files_in_force_which_was_so(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    mac = "02:00:00:00:00:2a"
    older = vfd.put_file("z-older", vfd.vf(0, vm_mac=mac))
    os.utime(older, (1000, 1000))
    vfd.put_file("a-newer", vfd.vf(1, vm_mac=mac))
    vfd.start()
    assert vfd.ask("PUT", "/v1/vfs/z-older", {"config": vfd.vf(0, vm_mac=mac, rate=0.5)})[0] == 200
    mirror = f"/v1/pfs/{vfd.pf}/vfs/0/mirror"
    assert vfd.ask("PUT", mirror, {"direction": "in", "target": 2})[0] == 200
    assert older.stat().st_mtime == 1000, "its place among the files"
    vfd.stop(signal.SIGKILL)
    os.utime(older)  # an editor that saved it again
    vfd.start()
    assert vfd.row(0)["name"] == "z-older"
    assert vfd.row(1)["state"] == "closed"
    assert [bad["file"] for bad in vfd.get("/v1/health")["bad_files"]] == ["a-newer.json"]


def test_what_is_wrong_within_a_file_hides_no_conflict_with_others(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.put_file("vm1", vfd.vf(0, vm_mac="02:00:00:00:00:2a"))
    vfd.put_file("vm2", vfd.vf(1, vm_mac="02:00:00:00:00:2a", vlans=[5, 5]))
    vfd.start()
    [bad] = vfd.get("/v1/health")["bad_files"]
    told = {(p["field"], p["other"]) for p in bad["problems"]}
    assert (bad["file"], told) == ("vm2.json", {("vlans", ""), ("vm_mac", "vm1")})
    vfd.put_file("vm2", vfd.vf(1, vm_mac="02:00:00:00:00:2a"))
    vfd.put_file("vm1", vfd.vf(0, vm_mac="02:00:00:00:00:2a", vlans=[5, 5]))
    vfd.reload()
    told_now = {
        (bad["file"], p["field"], p["other"])
        for bad in vfd.get("/v1/health")["bad_files"]
        for p in bad["problems"]
    }
    assert told_now == {("vm1.json", "vlans", ""), ("vm2.json", "vm_mac", "vm1")}


@pytest.mark.parametrize("content", ["", "{", '{"vfid": 0}', b"\xff\xfe"])
def test_a_file_that_becomes_bad_leaves_its_vf_as_it_was(vfd: Vfd, content: str | bytes) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.put_file("vm1", content)
    vfd.reload()
    assert vfd.row(0)["name"] == "vm1"
    assert vfd.row(0)["extended"]["vlans"] == [100]
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert vfd.row(0)["state"] == "ok"
    assert vfd.row(0)["extended"]["vlans"] == [100]
    assert vfd.row(0)["warnings"]
    vfd.put_file("vm1", vfd.vf(0, vlans=[5], guest_macs="listed"))
    vfd.reload()
    assert vfd.row(0)["extended"]["vlans"] == [5]
    assert vfd.row(0)["warnings"] == []


def test_a_deleted_bad_file_closes_the_vf_that_was_left_open_for_it(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.stop()
    vfd.put_file("vm1", "")
    vfd.start()
    assert vfd.row(0)["state"] == "ok"
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert vfd.row(0)["state"] == "closed"
    assert list(vfd.config_dir.iterdir()) == []


def test_a_reload_adds_updates_and_closes_what_the_files_say(vfd: Vfd) -> None:
    vfd.add("goes", vfd.vf(0))
    vfd.add("changes", vfd.vf(1))
    (vfd.config_dir / "goes.json").unlink()
    vfd.put_file("changes", vfd.vf(1, vlans=[5, 6]))
    vfd.put_file("comes", vfd.vf(2))
    vfd.reload()
    assert vfd.row(0)["state"] == "closed"
    assert vfd.row(1)["extended"]["vlans"] == [5, 6]
    assert vfd.row(2)["name"] == "comes"


def bad_files(vfd: Vfd) -> dict[str, list[tuple[str, str]]]:
    found = vfd.get("/v1/health")["bad_files"]
    return {b["file"]: [(p["field"], p["other"]) for p in b["problems"]] for b in found}


def test_settings_of_a_pf_that_would_break_an_open_vf_are_refused_and_name_it(vfd: Vfd) -> None:
    vfd.main["pciids"][0]["mtu"] = 9000
    vfd.write_main()
    vfd.reload()
    vfd.add("large", vfd.vf(0, mtu=9000))
    vfd.add("other", vfd.vf(1))
    vfd.main["pciids"][0]["mtu"] = 1500
    vfd.write_main()
    vfd.put_file("comes", vfd.vf(2))
    vfd.put_file("other", vfd.vf(1, vlans=[7]))
    vfd.reload()
    for _ in range(2):
        assert vfd.row(0)["name"] == "large"
        assert vfd.row(0)["state"] == "ok"
        assert vfd.row(1)["extended"]["vlans"] == [7]
        assert vfd.row(2)["name"] == "comes"
        assert vfd.get(f"/v1/pfs/{vfd.pf}")["policy"]["mtu"] == 9000
        assert bad_files(vfd) == {str(vfd.config): [("pciids[0].mtu", "large")]}
        assert vfd.get("/v1/health")["status"] == "degraded"
        vfd.reload()
    assert vfd.ask("DELETE", f"/v1/vfs/{vfd.config}")[0] == 404
    vfd.put_file("large", vfd.vf(0))
    vfd.reload()
    assert bad_files(vfd) == {}
    assert vfd.get(f"/v1/pfs/{vfd.pf}")["policy"]["mtu"] == 1500


def test_a_number_of_vfs_that_would_take_an_open_one_is_refused(vfd: Vfd) -> None:
    vfd.add("last", vfd.vf(3))
    vfd.main["pciids"][0]["vfs"] = 2
    vfd.write_main()
    vfd.reload()
    assert vfd.row(3)["state"] == "ok"
    assert bad_files(vfd) == {str(vfd.config): [("pciids[0].vfs", "last")]}
    vfd.stop()
    vfd.start()
    assert vfd.row(3)["state"] == "ok"
    assert vfd.row(3)["extended"]["vlans"] == [103]
    assert [field for field, _ in bad_files(vfd)[str(vfd.config)]] == ["pciids[0].vfs"]
    assert vfd.ask("DELETE", "/v1/vfs/last")[0] == 200
    vfd.reload()
    assert bad_files(vfd) == {}
    assert len(vfd.get(f"/v1/show?pf={vfd.pf}")["rows"]) == 3


def test_a_vf_that_is_open_stays_as_it_is_if_a_start_finds_its_file_refused(vfd: Vfd) -> None:
    vfd.main["pciids"][0]["mtu"] = 9000
    vfd.write_main()
    vfd.reload()
    vfd.add("large", vfd.vf(0, mtu=9000))
    vfd.add("two", vfd.vf(1))
    vfd.stop()
    vfd.main["pciids"][0]["mtu"] = 1500
    vfd.write_main()
    vfd.put_file("two", vfd.vf(1, mtu=1600, vlans=[8]))
    vfd.put_file("new", vfd.vf(2, mtu=1600))
    vfd.start()
    for _ in range(2):
        assert vfd.row(0)["state"] == vfd.row(1)["state"] == "ok"
        assert vfd.row(0)["extended"]["vlans"] == [100]
        assert vfd.row(1)["extended"]["vlans"] == [101]
        assert vfd.row(2)["state"] == "closed"
        assert bad_files(vfd).keys() == {"large.json", "two.json", "new.json"}
        assert {e["vfid"] for e in vfd.events("kept")} == {0, 1}
        vfd.reload()
    vfd.put_file("large", vfd.vf(0, vlans=[9]))
    (vfd.config_dir / "two.json").unlink()
    vfd.reload()
    assert vfd.row(0)["extended"]["vlans"] == [9]
    assert vfd.row(1)["state"] == "closed"


def test_a_changed_file_that_is_refused_leaves_its_vf_and_the_others_as_they_were(
    vfd: Vfd,
) -> None:
    vfd.add("one", vfd.vf(0, min_rate=0.4))
    vfd.add("two", vfd.vf(1, min_rate=0.4))
    os.utime(vfd.put_file("one", vfd.vf(0, min_rate=0.7)), (1000, 1000))
    os.utime(vfd.put_file("newcomer", vfd.vf(2, min_rate=0.3)), (1000, 1000))
    for _ in range(2):
        vfd.reload()
        assert vfd.row(0)["name"] == "one"
        assert vfd.row(1)["name"] == "two"
        assert vfd.row(0)["extended"]["min_rate"] == vfd.row(1)["extended"]["min_rate"]
        assert vfd.row(2)["state"] == "closed"
        assert bad_files(vfd).keys() == {"one.json", "newcomer.json"}


def test_a_vf_that_was_left_open_goes_with_the_number_of_vfs_only_if_that_is_forced(
    vfd: Vfd,
) -> None:
    vfd.add("last", vfd.vf(3))
    vfd.stop()
    vfd.put_file("last", "{")
    vfd.start()
    status, error = vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 2})
    assert status == 422
    assert error["problems"][0]["other"] == f"{vfd.pf}:3"
    assert vfd.row(3)["state"] == "ok"
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 2, "force": True})[0] == 200
    assert len(vfd.get(f"/v1/show?pf={vfd.pf}")["rows"]) == 3
    assert vfd.add("first", vfd.vf(0))[0] == 201


@pytest.mark.parametrize("also", [{}, {"mtu": 9000}], ids=["alone", "with the PF"])
def test_a_changed_file_that_is_refused_leaves_its_vf_whatever_else_changes(
    vfd: Vfd, also: dict[str, int]
) -> None:
    vfd.add("one", vfd.vf(0, min_rate=0.4))
    vfd.add("two", vfd.vf(1, min_rate=0.4))
    vfd.put_file("one", vfd.vf(0, min_rate=0.7))
    vfd.main["pciids"][0] |= also
    vfd.write_main()
    vfd.reload()
    assert (vfd.row(0)["name"], vfd.row(1)["name"]) == ("one", "two")
    assert bad_files(vfd).keys() == {"one.json"}


@pytest.mark.parametrize("also", [{}, {"mtu": 2000}], ids=["alone", "with the PF"])
def test_a_vf_that_was_left_open_at_the_start_stays_so_whatever_else_changes(
    vfd: Vfd, also: dict[str, int]
) -> None:
    vfd.add("one", vfd.vf(0, min_rate=0.4))
    vfd.stop()
    vfd.put_file("one", vfd.vf(0, mtu=9000))
    vfd.start()
    vfd.main["pciids"][0] |= also
    vfd.write_main()
    vfd.reload()
    assert vfd.row(0)["state"] == "ok"
    assert bad_files(vfd).keys() == {"one.json"}


def test_a_newcomer_with_an_older_file_takes_nothing_when_the_pf_changes_too(vfd: Vfd) -> None:
    vfd.add("one", vfd.vf(0, min_rate=0.4))
    vfd.add("two", vfd.vf(1, min_rate=0.4))
    os.utime(vfd.put_file("newcomer", vfd.vf(2, min_rate=0.3)), (1000, 1000))
    vfd.main["pciids"][0]["mtu"] = 9000
    vfd.write_main()
    vfd.reload()
    assert (vfd.row(0)["name"], vfd.row(1)["name"]) == ("one", "two")
    assert bad_files(vfd).keys() == {"newcomer.json"}


def test_guarantees_that_a_slower_link_has_no_room_for_close_no_vf(vfd: Vfd) -> None:
    vfd.add("one", vfd.vf(0, min_rate="600Mbps"))
    vfd.add("two", vfd.vf(1, min_rate="600Mbps"))
    vfd.main["pciids"][0]["link_speed"] = "1Gbps"
    vfd.write_main()
    vfd.reload()
    assert (vfd.row(0)["name"], vfd.row(1)["name"]) == ("one", "two")
    vfd.stop()
    vfd.start()
    for vfid in (0, 1):
        assert vfd.row(vfid)["state"] == "ok"
        assert vfd.row(vfid)["extended"]["min_rate"] == 500_000_000, "scaled to what there is"


def test_a_file_that_names_another_pf_and_is_refused_there_leaves_its_vf(vfd: Vfd) -> None:
    other = f"{vfd.pf}b"
    vfd.main["pciids"].append({"id": other, "backend": "soft", "vfs": 2})
    vfd.write_main()
    vfd.reload()
    mac = "02:00:00:00:00:01"
    vfd.add("mover", vfd.vf(0))
    vfd.add("owner", {**vfd.vf(0, vm_mac=mac), "pciid": other})
    vfd.put_file("mover", {**vfd.vf(1, vm_mac=mac), "pciid": other})
    vfd.reload()
    assert bad_files(vfd) == {"mover.json": [("vm_mac", "owner")]}
    rows = {r["address"]: r["state"] for r in vfd.get("/v1/show?extended=true")["rows"]}
    assert (rows[f"{vfd.pf}v0"], rows[f"{other}v1"]) == ("ok", "closed")
    vfd.put_file("mover", {**vfd.vf(1), "pciid": other})
    vfd.reload()
    rows = {r["address"]: r["state"] for r in vfd.get("/v1/show?extended=true")["rows"]}
    assert (rows[f"{vfd.pf}v0"], rows[f"{other}v1"]) == ("closed", "ok")


def test_a_name_that_is_in_force_is_not_taken_by_a_file_that_comes_with_an_older_date(
    vfd: Vfd,
) -> None:
    vfd.add("one", vfd.vf(0))
    os.utime(vfd.put_file("thief", vfd.vf(1, name="one")), (1000, 1000))
    vfd.reload()
    assert bad_files(vfd) == {"thief.json": [("name", "one")]}
    assert (vfd.row(0)["name"], vfd.row(1)["state"]) == ("one", "closed")


def test_a_bad_main_file_changes_nothing_on_reload_and_is_refused_at_start(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.config.write_text('{"pciids": [')
    assert vfd.process is not None
    vfd.process.send_signal(signal.SIGHUP)
    wait_for(lambda: vfd.events("bad-file"))
    assert vfd.row(0)["name"] == "vm1"
    vfd.stop()
    process = vfd.spawn()
    assert process.wait(10) == 3
    assert "vfd.cfg" in vfd.output()


def test_a_check_finds_files_that_are_bad_or_in_conflict_and_changes_nothing(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    os.utime(vfd.put_file("older", vfd.vf(0)), (1000, 1000))
    being_written = vfd.config_dir / ".vm1.json.0123abcd.vfd-tmp"
    being_written.write_text("")

    def check() -> tuple[int, str]:
        command = [sys.executable, "-m", "vfd.main", "--check", "--config", str(vfd.config)]
        ended = subprocess.run(command, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr

    code, told = check()
    assert (code, "1 PF; 1 good file, 0 bad" in told) == (0, True), told
    vfd.put_file("newer", vfd.vf(0, vlans=[5, 5]))
    vfd.put_file("far", vfd.vf(9))
    code, told = check()
    assert code == 3
    for line in (
        "newer.json: vfid = 0",
        "newer.json: vlans",
        "far.json: vfid = 9",
        "1 good file, 2",
    ):
        assert line in told
    assert being_written.exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_refuses_changes_and_undoes_nothing_else(
    make_vfd: Callable[..., Vfd], tiny_disk: Path
) -> None:
    vfd = make_vfd(config_dir=str(tiny_disk))
    vfd.config_dir = tiny_disk
    vfd.start()
    assert vfd.add("vm1", vfd.vf(0))[0] == 201
    subprocess.run(["dd", "if=/dev/zero", f"of={tiny_disk}/filler"], capture_output=True)
    status, error = vfd.add("vm2", vfd.vf(1))
    assert (status, error["type"], error["exit"]) == (503, "storage-failed", 5)
    assert "No space left" in error["detail"]
    assert "Nothing was changed: make room" in error["detail"]
    assert vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(0, vlans=[7])})[0] == 503
    assert vfd.row(1)["state"] == "closed"
    assert vfd.row(0)["extended"]["vlans"] == [100]
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert vfd.row(0)["state"] == "closed"


def test_a_config_dir_that_cannot_be_read_leaves_vfs_as_they_are(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    vfd.stop()
    aside = vfd.config_dir.with_name("aside")
    vfd.config_dir.rename(aside)
    vfd.config_dir.write_text("a file where the folder was")
    vfd.start()
    assert vfd.row(0)["state"] == "ok"
    assert vfd.get("/v1/health")["status"] == "degraded"
    vfd.config_dir.unlink()
    aside.rename(vfd.config_dir)
    vfd.reload()
    assert vfd.row(0)["name"] == "vm1"


def test_no_link_below_config_dir_leads_the_daemon_elsewhere(vfd: Vfd, tmp_path: Path) -> None:
    """Folders below config_dir may be others' own, who put links where the daemon looks."""
    outside = tmp_path / "outside"
    (outside / "there").mkdir(parents=True)
    (outside / "there/vm1.json").write_text(json.dumps(vfd.vf(0)))
    tenant = vfd.config_dir / "tenant"
    tenant.mkdir()
    (tenant / "link").symlink_to(outside)
    before = sorted(outside.rglob("*"))
    for name in ("tenant/link/vm", "tenant/link/there/vm", "tenant/link/new/deep/vm"):
        status, error = vfd.add(name, vfd.vf(1))
        assert status == 422, error
        assert "link" in error["detail"]
    assert vfd.ask("POST", "/v1/vfs", {"file": "tenant/link/there/vm1"})[0] == 422
    assert sorted(outside.rglob("*")) == before
    assert vfd.add("tenant/own/vm", vfd.vf(1))[0] == 201
    (tenant / "own").rename(outside / "moved")
    (tenant / "own").symlink_to(outside / "moved")
    before = sorted(outside.rglob("*"))
    assert vfd.ask("PUT", "/v1/vfs/tenant/own/vm", {"config": vfd.vf(1, vlans=[9])})[0] == 422
    assert vfd.ask("DELETE", "/v1/vfs/tenant/own/vm")[0] == 503
    assert sorted(outside.rglob("*")) == before
    assert vfd.row(1)["extended"]["vlans"] == [101]


def test_a_link_that_leads_nowhere_is_in_the_way_like_any_file(vfd: Vfd) -> None:
    (vfd.config_dir / "vm.json").symlink_to("/nowhere")
    status, error = vfd.add("vm", vfd.vf(0))
    assert (status, error["type"]) == (409, "exists")
    assert [str(path.readlink()) for path in vfd.config_dir.iterdir()] == ["/nowhere"]
    assert vfd.ask("POST", "/v1/vfs", {"file": "vm"})[0] == 422
    assert vfd.ask("POST", "/v1/vfs", {"file": "none"})[0] == 404
    assert vfd.ask("POST", "/v1/vfs", {"file": "none/deep"})[0] == 404


def test_what_is_refused_leaves_no_folder_behind(vfd: Vfd) -> None:
    assert vfd.add("a/b/vm", vfd.vf(0, mirror={"target": 99}))[0] == 422
    assert vfd.ask("POST", "/v1/plan", {"name": "c/d/vm", "config": vfd.vf(0)})[0] == 200
    assert list(vfd.config_dir.iterdir()) == []


def test_descriptors_are_closed_whatever_becomes_of_a_request(vfd: Vfd) -> None:
    assert vfd.process is not None
    vfd.get("/v1/health")
    descriptors = Path(f"/proc/{vfd.process.pid}/fd")

    def everything() -> None:
        vfd.add("a/vm", vfd.vf(0))
        vfd.add("a/vm", vfd.vf(0))
        vfd.add("a/other", vfd.vf(0))
        vfd.ask("PUT", "/v1/vfs/a/vm", {"config": vfd.vf(0, vlans=[7])})
        vfd.ask("PUT", "/v1/vfs/a/vm", {"config": vfd.vf(0, vlans=[])})
        vfd.ask("PUT", "/v1/vfs/a/vm", {"config": {**vfd.vf(0), "pciid": "elsewhere"}})
        vfd.ask("POST", "/v1/plan", {"name": "a/vm", "config": vfd.vf(0)})
        vfd.ask("PUT", f"/v1/pfs/{vfd.pf}/vfs/0/mirror", {"direction": "in", "target": 1})
        vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 5})
        vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 4})
        vfd.ask("DELETE", "/v1/vfs/a/vm")
        vfd.ask("DELETE", "/v1/vfs/a/vm")

    everything()
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        everything()
    deadline = time.monotonic() + 3  # the daemon closes its end of a connection in its own time
    while len(list(descriptors.iterdir())) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(descriptors.iterdir())) <= before
    assert list(vfd.config_dir.iterdir()) == []


def test_a_check_leaves_alone_what_a_running_daemon_is_writing(vfd: Vfd) -> None:
    unfinished = vfd.config_dir / ".vm1.json.0123abcd.vfd-tmp"
    unfinished.write_text("{")
    command = [sys.executable, "-m", "vfd.main", "--config", str(vfd.config), "--check"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert unfinished.exists()
    vfd.stop()
    vfd.start()
    assert not unfinished.exists()
