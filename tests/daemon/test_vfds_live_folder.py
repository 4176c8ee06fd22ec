"""VFd kept what was in force in config_dir + _live: an upgrade in place closes no tenant."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from vfd.config import store
from vfd.daemon import live

from .harness import Vfd


@pytest.fixture
def old(make_vfd: Callable[..., Vfd]) -> Vfd:
    """A host of VFd's, before vfd starts."""
    vfd = make_vfd()
    folder(vfd).mkdir()
    return vfd


def folder(vfd: Vfd) -> Path:
    return vfd.config_dir.with_name("vfs_live")


def put(vfd: Vfd, name: str, vfid: int, **fields: object) -> Path:
    path = folder(vfd) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vfd.vf(vfid, **fields)))
    return path


def everything(of: Path) -> set[str]:
    return {str(path.relative_to(of)) for path in of.rglob("*")}


def test_files_in_force_with_vfd_are_in_force_after_the_first_start(old: Vfd) -> None:
    os.utime(put(old, "vm0", 0), (1000, 1000))
    os.chown(put(old, "Instance_admin-vm1/fbf5", 1), 1234, 2345)
    (folder(old) / "torn.json").write_text("{")
    (folder(old) / "gone.json-").write_text("{}")
    command = [sys.executable, "-m", "vfd.main", "--check", "--config", str(old.config)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert "4 files of VFd's in" in checked.stdout
    assert "a start takes them over" in checked.stdout
    assert everything(old.config_dir) == set()
    old.start()
    assert everything(folder(old)) == set()
    files = {"vm0.json", "Instance_admin-vm1", "Instance_admin-vm1/fbf5.json", "torn.json"}
    assert everything(old.config_dir) == files | {"gone.json-"}
    assert (old.row(0)["name"], old.row(1)["name"]) == ("vm0", "Instance_admin-vm1/fbf5")
    assert (old.config_dir / "vm0.json").stat().st_mtime == 1000
    owned = (old.config_dir / "Instance_admin-vm1/fbf5.json").stat()
    assert (owned.st_uid, owned.st_gid) == (1234, 2345)
    told = {event["data"]["file"] for event in old.events("taken-over")}
    assert told == {"vm0.json", "Instance_admin-vm1/fbf5.json", "torn.json", "gone.json-"}
    assert [b["file"] for b in old.get("/v1/health")["bad_files"]] == ["torn.json"]
    old.stop(signal.SIGKILL)
    old.start()
    assert old.row(0)["name"] == "vm0"
    assert old.events("taken-over") == []


def test_of_two_files_of_one_name_the_one_that_was_in_force_is_and_none_is_lost(old: Vfd) -> None:
    put(old, "vm0", 0, vlans=[7])
    pending = old.put_file("vm0", old.vf(0, vlans=[8])).read_text()
    old.put_file("vm0.json.error", "x").rename(old.config_dir / "vm0.json.error")
    same = put(old, "vm1", 1)
    shutil.copy2(same, old.config_dir / "vm1.json")
    old.start()
    assert old.row(0)["extended"]["vlans"] == [7]
    assert everything(folder(old)) == set()
    assert everything(old.config_dir) == {
        *("vm0.json", "vm0.json.error", "vm0.json.error.1", "vm1.json"),
    }
    assert (old.config_dir / "vm0.json.error").read_text() == "x"
    assert (old.config_dir / "vm0.json.error.1").read_text() == pending
    texts = [event["text"] for event in old.events("taken-over")]
    assert any("vm0.json.error.1 now" in text for text in texts)
    assert any("vm1.json" in text and "already" in text for text in texts)


@pytest.mark.parametrize("whose", ["another's", "anybody's", "a link"])
def test_a_folder_that_others_may_write_is_not_taken_over(old: Vfd, whose: str) -> None:
    put(old, "vm0", 0)
    if whose == "another's":
        os.chown(folder(old), 1234, 1234)
    elif whose == "anybody's":
        folder(old).chmod(0o777)
    else:
        folder(old).rename(old.folder / "elsewhere")
        folder(old).symlink_to(old.folder / "elsewhere")
    old.start()
    assert old.row(0)["state"] == "closed"
    assert everything(folder(old)) == {"vm0.json"}
    [told] = [e["text"] for e in old.events("bad-file")]
    assert f"{folder(old)} is not taken over" in told


def test_links_and_other_things_stay_and_are_told(old: Vfd) -> None:
    put(old, "vm0", 0)
    secret = old.folder / "secret"
    secret.write_text(json.dumps(old.vf(1)))
    (folder(old) / "link.json").symlink_to(secret)
    os.mkfifo(folder(old) / "pipe.json")
    (folder(old) / "README").write_text("x")
    old.start()
    assert old.row(0)["name"] == "vm0"
    assert old.row(1)["state"] == "closed"
    assert everything(folder(old)) == {"link.json", "pipe.json", "README"}
    assert {e["data"]["file"] for e in old.events("bad-file")} == {"link.json", "pipe.json"}


@pytest.fixture
def elsewhere(old: Vfd) -> Iterator[Vfd]:
    """Its config_dir is another file system than the folder beside it."""
    subprocess.run(["mount", "-t", "tmpfs", "vfd-test", str(old.config_dir)], check=True)
    yield old
    subprocess.run(["umount", "-l", str(old.config_dir)], check=True)


def test_files_are_taken_over_to_another_file_system(elsewhere: Vfd) -> None:
    path = put(elsewhere, "t/vm0", 0)
    os.chown(path, 1234, 2345)
    os.utime(path, (1000, 1000))
    (folder(elsewhere) / "odd.json").write_bytes(b"\xff")
    elsewhere.start()
    assert everything(folder(elsewhere)) == set()
    about = (elsewhere.config_dir / "t/vm0.json").stat()
    assert (about.st_uid, about.st_gid, about.st_mtime) == (1234, 2345, 1000)
    assert (elsewhere.config_dir / "odd.json").read_bytes() == b"\xff"
    assert elsewhere.row(0)["name"] == "t/vm0"


def killed_at(call: int, config_dir: Path) -> bool:
    """Takes over in a process that is killed right before its so manieth call into the system.
    False: it has ended before."""
    pid = os.fork()
    if pid:
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    calls = count()

    def note(_: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__module__ == "posix" and next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.setprofile(note)
        for _ in live.take_over(config_dir):
            pass
    finally:
        os._exit(0)


@pytest.mark.parametrize("other", [False, True], ids=["renamed", "copied"])
def test_a_daemon_that_is_killed_at_whatever_call_loses_no_file_and_doubles_none(
    tmp_path: Path, other: bool
) -> None:
    config_dir = tmp_path / "vfs"
    config_dir.mkdir()
    if other:
        subprocess.run(["mount", "-t", "tmpfs", "vfd-test", str(config_dir)], check=True)
    source = live.folder_of(config_dir)
    texts = {f"{name}.json": name * 1000 for name in ("a", "t/b")}
    amid = doubled = False
    try:
        for call in count():
            for name, text in texts.items():
                (config_dir / name).unlink(missing_ok=True)
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_text(text)
            killed = killed_at(call, config_dir)
            there = {n for n in texts if (config_dir / n).exists()}
            left = {n for n in texts if (source / n).exists()}
            assert all((config_dir / n).read_text() == texts[n] for n in there)
            assert there | left == texts.keys()
            amid, doubled = amid or bool(there and left), doubled or bool(there & left)
            assert [r for r in live.take_over(config_dir) if r.is_bad] == []
            assert everything(source) == set()
            store.sweep(config_dir)
            assert everything(config_dir) == {*texts, "t"}
            if not killed:
                break
        assert amid
        assert doubled == other, "the other file system has it before it goes from the first"
    finally:
        if other:
            subprocess.run(["umount", "-l", str(config_dir)], check=True)
