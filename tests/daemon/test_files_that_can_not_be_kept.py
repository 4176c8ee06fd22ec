"""What can't be kept on disk is not done, or undone: no guest loses anything for it."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from vfd.config import store
from vfd.daemon import pfs
from vfd.daemon.failures import StorageError
from vfd.daemon.memory import Kept, Known, Memory
from vfd.daemon.service import Service
from vfd.nic.protocol import NicError

from .harness import Vfd, wait_for
from .plain_nic import nic_of


def run(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def mount_over(path: Path, undo: ExitStack, *, read_only: bool) -> Path:
    """The file is a mount of its own, as in a container. Returns the file behind it."""
    behind = path.with_name(path.name + ".behind")
    shutil.copy2(path, behind)
    run("mount", "--bind", behind, path)
    undo.callback(run, "umount", "-l", path)
    if read_only:
        run("mount", "-o", "remount,ro,bind", path)
    return behind


def read_only_folder(path: Path, undo: ExitStack) -> None:
    run("mount", "--bind", path, path)
    undo.callback(run, "umount", "-l", path)
    run("mount", "-o", "remount,ro,bind", path)


def ifindexes(vfd: Vfd) -> list[str]:
    shown = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    return sorted(line.split(":")[0] for line in shown.splitlines() if vfd.pf in line)


@pytest.mark.parametrize("how", ["file", "folder"])
def test_where_the_main_file_is_read_only_no_netdev_goes(
    vfd: Vfd, undo: ExitStack, how: str
) -> None:
    vfd.add("vm3", vfd.vf(3))
    before, text = ifindexes(vfd), vfd.config.read_text()
    assert len(before) >= 4
    if how == "file":
        mount_over(vfd.config, undo, read_only=True)
    else:
        read_only_folder(vfd.folder, undo)
    for method, path, body in (
        ("DELETE", f"/v1/pfs/{vfd.pf}?force=true", None),
        ("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 1, "force": True}),
        ("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 8}),
    ):
        status, error = vfd.ask(method, path, body)
        assert (status, error["exit"], error["type"]) == (503, 5, "storage-failed")
        assert "Nothing was changed" in error["detail"]
        assert "its file system is read-only" in error["detail"]
        assert ifindexes(vfd) == before
        assert vfd.row(3)["state"] == "ok"
        assert vfd.config.read_text() == text


def test_a_main_file_that_is_a_mount_of_its_own_is_written_in_place(
    vfd: Vfd, undo: ExitStack
) -> None:
    vfd.main["comment"] = "x" * 100
    vfd.write_main()
    behind = mount_over(vfd.config, undo, read_only=False)
    inode = behind.stat().st_ino
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 6})[0] == 200
    kept = json.loads(behind.read_text())
    assert (kept["pciids"][0]["vfs"], kept["comment"]) == (6, "x" * 100)
    assert vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}?force=true")[0] == 200
    assert json.loads(behind.read_text())["pciids"] == []
    assert behind.stat().st_ino == inode
    assert [p.name for p in vfd.folder.iterdir() if p.name.endswith(".vfd-tmp")] == []
    vfd.stop()
    vfd.start()
    assert vfd.get("/v1/pfs")["pfs"] == []


def test_where_a_vfs_file_is_read_only_its_vf_is_as_before(vfd: Vfd, undo: ExitStack) -> None:
    vfd.add("vm1", vfd.vf(1))
    mount_over(vfd.config_dir / "vm1.json", undo, read_only=True)
    before = vfd.row(1)["extended"]
    mirror = f"/v1/pfs/{vfd.pf}/vfs/1/mirror"
    for method, path, body in (
        ("PUT", "/v1/vfs/vm1", {"config": vfd.vf(1, vlans=[7])}),
        ("PUT", mirror, {"direction": "in", "target": 2}),
        ("DELETE", "/v1/vfs/vm1", None),
    ):
        status, error = vfd.ask(method, path, body)
        assert (status, error["type"]) == (503, "storage-failed"), error
        assert vfd.row(1)["extended"] == before
    assert [p.name for p in vfd.config_dir.iterdir() if p.name.startswith(".")] == []


def test_a_vfs_file_that_is_a_mount_of_its_own_is_written_in_place(
    vfd: Vfd, undo: ExitStack
) -> None:
    vfd.add("vm1", vfd.vf(1))
    behind = mount_over(vfd.config_dir / "vm1.json", undo, read_only=False)
    assert vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(1, vlans=[7])})[0] == 200
    assert json.loads(behind.read_text())["vlans"] == [7]


def test_a_disk_that_fills_up_between_the_two_ways_leaves_nothing_behind(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main file is written beside its place twice: as it is to be, and to lead back."""
    [managed] = service.nics.values()
    folder, stage, calls = service.files.main_file.parent, store.stage, [0]

    def stage_once(*arguments: Any) -> store.Staged:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return stage(*arguments)

    there, opened = sorted(folder.iterdir()), len([*Path("/proc/self/fd").iterdir()])
    monkeypatch.setattr(store, "stage", stage_once)
    with pytest.raises(StorageError, match="No space left"):
        pfs.set_vfs(service, managed.id, 2, force=True)
    assert calls == [2]
    assert sorted(folder.iterdir()) == there
    assert len([*Path("/proc/self/fd").iterdir()]) == opened


def test_what_is_remembered_of_files_is_written_once_it_can_be(tmp_path: Path) -> None:
    path, one = tmp_path / "vfd.files", {"vm1.json": Known("pf0", 1, "vm1")}
    memory = Memory(path)
    memory.keep(Kept())
    blocked = tmp_path / ".vfd.files.new"
    blocked.mkdir()
    memory.keep(Kept(one))
    assert Memory(path).kept == Kept()
    blocked.rmdir()
    memory.keep(Kept(one))
    assert Memory(path).kept == Kept(one)


def test_what_a_full_run_kept_from_being_written_is_written_once_there_is_room(
    make_vfd: Callable[..., Vfd], undo: ExitStack, tmp_path: Path
) -> None:
    tiny = tiny_disk(tmp_path, undo)
    vfd = make_vfd(socket=str(tiny / "s"))
    vfd.socket = tiny / "s"
    vfd.start()
    vfd.add("vm0", vfd.vf(0))
    vfd.add("vm1", vfd.vf(1))
    kept = tiny / "s.files"
    fill(tiny)
    vfd.add("vm2", vfd.vf(2))
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert json.loads(kept.read_text())["files"].keys() == {"vm0.json", "vm1.json"}
    status, answer = vfd.ask("POST", "/v1/clear", {"pf": vfd.pf})
    assert (status, "a restart will lose the zeros" in answer["detail"]) == (200, True)
    assert [path.name for path in tiny.iterdir() if path.name.endswith(".new")] == []
    (tiny / "filler").unlink()
    there = {"vm0.json", "vm2.json"}
    wait_for(lambda: json.loads(kept.read_text())["files"].keys() == there, 10)
    for file in vfd.config_dir.iterdir():
        file.unlink()  # as where a mount is missing
    vfd.stop(signal.SIGKILL)
    vfd.start()
    assert [vfd.row(vfid)["state"] for vfid in range(3)] == ["ok", "closed", "ok"]
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert "the files of 2 VFs (vm0, vm2) are gone" in bad["problems"][0]["rule"]


def tiny_disk(folder: Path, undo: ExitStack) -> Path:
    tiny = folder / "tiny"
    tiny.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "vfd-test", tiny)
    undo.callback(run, "umount", "-l", tiny)
    return tiny


def fill(disk: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={disk}/filler"], capture_output=True)


def test_where_the_nic_fails_the_main_file_is_as_before(service: Service) -> None:
    [managed] = service.nics.values()
    main_file = service.files.main_file
    text = main_file.read_text()
    nic_of(service).refuses = "out of order"
    with pytest.raises(NicError, match="out of order"):
        pfs.set_vfs(service, managed.id, 2, force=True)
    assert main_file.read_text() == text
    nic_of(service).refuses = ""
    pfs.set_vfs(service, managed.id, 2, force=True)
    assert json.loads(main_file.read_text())["pciids"] == [{"id": managed.id, "vfs": 2}]


def test_a_full_disk_changes_nothing(
    make_vfd: Callable[..., Vfd], undo: ExitStack, tmp_path: Path
) -> None:
    vfd = make_vfd()
    tiny = tiny_disk(tmp_path, undo)
    vfd.config = tiny / "vfd.cfg"
    vfd.write_main()
    vfd.start()
    fill(tiny)
    before, text = ifindexes(vfd), vfd.config.read_text()
    status, error = vfd.ask("DELETE", f"/v1/pfs/{vfd.pf}?force=true")
    assert (status, "No space left" in error["detail"]) == (503, True)
    assert (ifindexes(vfd), vfd.config.read_text()) == (before, text)
