"""Files that are gone all at once are a mount that is missing until somebody says otherwise."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vfd.daemon import deleting
from vfd.daemon.service import Service
from vfd.nic.protocol import NicError

from .harness import Vfd, wait_for
from .plain_nic import add, nic_of, restarted


def told(vfd: Vfd) -> dict[str, str]:
    """What health says of files."""
    found = vfd.get("/v1/health")["bad_files"]
    return {bad["file"]: bad["problems"][0]["rule"] for bad in found}


def states(vfd: Vfd) -> list[str]:
    return [vfd.row(vfid)["state"] for vfid in range(4)]


def read_again(vfd: Vfd, **body: Any) -> None:
    status, answer = vfd.ask("POST", "/v1/reload", body)
    assert status == 200, answer


def iplex(vfd: Vfd, *args: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("iplex"))
    command = [program, "--socket", str(vfd.socket), *args]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def two(vfd: Vfd) -> Vfd:
    vfd.add("vm0", vfd.vf(0))
    vfd.add("vm1", vfd.vf(1))
    return vfd


def restart(vfd: Vfd) -> None:
    vfd.stop(signal.SIGKILL)
    vfd.start()


def in_vain(vfd: Vfd) -> None:
    vfd.reload()


@pytest.fixture
def mounted(make_vfd: Callable[..., Vfd]) -> Iterator[Vfd]:
    """Its config_dir is a mount."""
    vfd = make_vfd()
    mount = ["mount", "-t", "tmpfs", "vfd-test", str(vfd.config_dir)]
    subprocess.run(mount, check=True)
    vfd.start()
    vfd.add("vm0", vfd.vf(0))
    vfd.add("tenant/vm1", vfd.vf(1))
    yield vfd
    subprocess.run(["umount", "-l", str(vfd.config_dir)], check=False, capture_output=True)


@pytest.mark.parametrize("again", [in_vain, restart], ids=["reload", "start"])
def test_a_mount_that_is_missing_closes_nothing(mounted: Vfd, again: Callable[[Vfd], None]) -> None:
    vfd = mounted
    aside = vfd.folder / "aside"
    aside.mkdir()
    subprocess.run(["mount", "--move", str(vfd.config_dir), str(aside)], check=False)
    if [*vfd.config_dir.iterdir()]:  # the mount above is shared: it can't be moved
        subprocess.run(["mount", "--bind", str(vfd.config_dir), str(aside)], check=True)
        subprocess.run(["umount", "-l", str(vfd.config_dir)], check=True)
    assert [*vfd.config_dir.iterdir()] == []
    for _ in range(2):
        again(vfd)
        assert states(vfd) == ["ok", "ok", "closed", "closed"]
        assert vfd.row(0)["extended"]["vlans"] == [100]
        [(file, rule)] = told(vfd).items()
        assert file == str(vfd.config_dir)
        assert "the files of 2 VFs (tenant/vm1, vm0) are gone from it" in rule
        assert "iplex reload --confirm-gone" in rule
        assert vfd.get("/v1/health")["status"] == "degraded"
        assert any(file in e["text"] for e in vfd.events("bad-file"))
        assert "tenant/vm1, vm0" in iplex(vfd, "show", "all").stdout
    subprocess.run(["mount", "--bind", str(aside), str(vfd.config_dir)], check=True)
    vfd.reload()
    assert told(vfd) == {}
    assert (vfd.row(0)["name"], vfd.row(1)["name"]) == ("vm0", "tenant/vm1")
    subprocess.run(["umount", "-l", str(aside)], check=True)


@pytest.mark.parametrize("again", [in_vain, restart], ids=["reload", "start"])
def test_an_operator_confirms_that_files_are_deleted(
    two: Vfd, again: Callable[[Vfd], None]
) -> None:
    for file in two.config_dir.iterdir():
        file.unlink()
    again(two)
    assert states(two)[:2] == ["ok", "ok"]
    done = iplex(two, "reload", "--confirm-gone")
    assert (done.returncode, "read again: 0 VFs configured" in done.stdout) == (0, True), done
    assert states(two)[:2] == ["closed", "closed"]
    assert told(two) == {}
    again(two)
    assert states(two)[:2] == ["closed", "closed"]


@pytest.mark.parametrize("again", [in_vain, restart], ids=["reload", "start"])
def test_an_operator_deletes_the_vfs_one_by_one(two: Vfd, again: Callable[[Vfd], None]) -> None:
    for file in two.config_dir.iterdir():
        file.unlink()
    again(two)
    assert two.ask("DELETE", "/v1/vfs/vm0")[0] == 200
    assert states(two)[:2] == ["closed", "ok"]
    assert "1 VF (vm1)" in told(two)[str(two.config_dir)]
    again(two)
    assert states(two)[:2] == ["closed", "ok"]
    assert two.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert states(two)[:2] == ["closed", "closed"]
    assert told(two) == {}


def test_what_was_in_force_is_kept_again_where_somebody_removed_it(two: Vfd) -> None:
    kept = two.socket.with_suffix(".files")
    kept.unlink()
    wait_for(kept.exists)
    for file in two.config_dir.iterdir():
        file.unlink()
    restart(two)
    assert states(two)[:2] == ["ok", "ok"]


def test_a_file_that_was_there_with_others_is_deleted_by_hand_and_the_last_one_is_asked_about(
    two: Vfd,
) -> None:
    (two.config_dir / "vm0.json").unlink()
    two.reload()
    assert states(two)[:2] == ["closed", "ok"]
    assert told(two) == {}
    (two.config_dir / "vm1.json").unlink()
    two.reload()
    assert states(two)[:2] == ["closed", "ok"]
    assert "1 VF (vm1)" in told(two)[str(two.config_dir)]
    read_again(two, confirm_gone=True)
    assert states(two)[:2] == ["closed", "closed"]


@pytest.mark.parametrize("again", [in_vain, restart], ids=["reload", "start"])
def test_what_is_gone_is_asked_about_still_when_other_files_have_come(
    two: Vfd, again: Callable[[Vfd], None]
) -> None:
    for name in ("vm0", "vm1"):
        (two.config_dir / f"{name}.json").unlink()
    two.reload()
    two.add("vm2", two.vf(2))
    again(two)
    again(two)
    assert states(two)[:3] == ["ok", "ok", "ok"]
    assert "2 VFs (vm0, vm1)" in told(two)[str(two.config_dir)]
    read_again(two, confirm_gone=True)
    assert states(two)[:3] == ["closed", "closed", "ok"]


@pytest.mark.parametrize("again", [in_vain, restart], ids=["reload", "start"])
def test_a_tenants_folder_that_is_gone_at_once_closes_nothing(
    two: Vfd, again: Callable[[Vfd], None]
) -> None:
    two.add("tenant/a/vm", two.vf(2))
    two.add("tenant/b/vm", two.vf(3))
    shutil.rmtree(two.config_dir / "tenant")
    (two.config_dir / "vm0.json").unlink()
    again(two)
    assert states(two) == ["closed", "ok", "ok", "ok"]
    assert told(two).keys() == {"tenant"}
    two.add("tenant/a/vm", two.vf(2))
    assert two.ask("PUT", "/v1/vfs/tenant/a/vm", {"config": two.vf(2)})[0] == 200
    again(two)
    assert states(two) == ["closed", "ok", "ok", "ok"]
    read_again(two, confirm_gone=True)
    assert (states(two)[3], told(two)) == ("closed", {})


def test_another_folder_in_its_place_deletes_nothing(two: Vfd) -> None:
    """Though it has some of the files."""
    two.config_dir.rename(two.folder / "aside")
    two.config_dir.mkdir()
    two.put_file("vm0", two.vf(0, vlans=[7]))
    for _ in range(2):
        two.reload()
        assert states(two)[:2] == ["ok", "ok"]
        assert two.row(0)["extended"]["vlans"] == [7]
        assert "1 VF (vm1)" in told(two)[str(two.config_dir)]
    two.put_file("vm1", two.vf(1))
    two.reload()
    assert told(two) == {}
    (two.config_dir / "vm1.json").unlink()
    two.reload()
    assert (states(two)[:2], told(two)) == (["ok", "closed"], {}), "it is the folder now"


def test_a_daemon_that_is_killed_while_it_deletes_the_last_vf_has_deleted_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is gone, and the next daemon has no more than what was kept by then."""
    add(service, "vm0", 0)
    file = service.files.folder / "vm0.json"
    kept = []

    def closed(*_: object) -> None:
        assert not file.exists()
        kept.append(service.files.memory.kept)
        raise NicError("killed")

    monkeypatch.setattr(deleting, "close_vf", closed)
    with pytest.raises(NicError):
        service.delete("vm0")
    [then] = kept
    assert then.files == {}
    assert service.files.memory.kept.files.keys() == {"vm0.json"}
    file.unlink()
    service.files.memory.keep(then)
    again = restarted(service, monkeypatch)
    again.start()
    assert nic_of(again).rules[0] is None
    again.stop()


def test_a_file_that_was_moved_or_renamed_is_not_gone(two: Vfd) -> None:
    (two.config_dir / "t").mkdir()
    for name in ("vm0", "vm1"):
        (two.config_dir / f"{name}.json").rename(two.config_dir / f"t/{name}.json")
    two.reload()
    assert told(two) == {}
    assert (two.row(0)["name"], two.row(1)["name"]) == ("t/vm0", "t/vm1")
    two.config_dir.joinpath("t").rename(two.config_dir / "u")
    two.reload()
    assert told(two) == {}
    assert (two.row(0)["name"], two.row(1)["name"]) == ("u/vm0", "u/vm1")


def test_vfs_that_bad_files_keep_open_stay_so_when_those_are_gone_too(two: Vfd) -> None:
    two.stop()
    for vfid in (0, 1):
        two.put_file(f"vm{vfid}", two.vf(vfid, vlans=[1, 1]))
    two.start()
    for file in two.config_dir.iterdir():
        file.unlink()
    two.reload()
    assert states(two)[:2] == ["ok", "ok"]
    restart(two)
    assert states(two)[:2] == ["ok", "ok"]
    read_again(two, confirm_gone=True)
    assert states(two)[:2] == ["closed", "closed"]


def test_vfs_without_a_file_are_closed_where_nothing_was_in_force(two: Vfd) -> None:
    """A host that vfd comes to anew: nobody knows of files there."""
    two.stop(signal.SIGKILL)
    two.socket.with_suffix(".files").unlink()
    (two.config_dir / "vm1.json").unlink()
    two.start()
    assert states(two)[:2] == ["ok", "closed"]


def test_a_bad_main_file_is_told_to_who_asks_for_a_reload(vfd: Vfd) -> None:
    vfd.config.write_text('{"pciids": [')
    status, answer = vfd.ask("POST", "/v1/reload", {})
    assert (status, answer["exit"]) == (422, 3)
    assert "not JSON" in answer["detail"]
    assert vfd.get("/v1/health")["status"] == "degraded"
    vfd.write_main()
    assert iplex(vfd, "reload").returncode == 0
