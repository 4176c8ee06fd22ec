"""Callbacks run as the file's owner, never through a shell, and never for long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .harness import Vfd, wait_for

DAEMON_USER = 1  # "daemon", on every Debian


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that anybody may write to, down from the root."""
    place = Path("/tmp") / f"vfd-cb-{os.getpid()}-{tmp_path.name}"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    return place


def test_start_and_stop_run_as_the_owner_without_a_shell(vfd: Vfd, open_folder: Path) -> None:
    started, stopped = open_folder / "started;id", open_folder / "stopped"
    file = vfd.put_file(
        "vm1",
        vfd.vf(0, start_cb=f"touch '{started}' $HOME", stop_cb=f"touch {stopped}"),
    )
    os.chown(file, DAEMON_USER, DAEMON_USER)
    assert vfd.ask("POST", "/v1/vfs", {"file": "vm1"})[0] == 201
    wait_for(started.exists)
    assert started.stat().st_uid == DAEMON_USER
    [told] = wait_for(lambda: vfd.events("callback"))
    assert told["level"] == "error"  # "$HOME" is a word, and no file of that user's
    assert not stopped.exists()
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert stopped.stat().st_uid == DAEMON_USER
    for left in open_folder.iterdir():
        left.unlink()
    open_folder.rmdir()


def test_a_file_that_others_may_write_runs_nothing(vfd: Vfd, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    file = vfd.put_file("vm1", vfd.vf(0, start_cb=f"touch {witness}"))
    file.chmod(0o666)
    assert vfd.ask("POST", "/v1/vfs", {"file": "vm1"})[0] == 201
    [told] = wait_for(lambda: vfd.events("callback"))
    assert "others than uid 0 may write" in told["text"]
    assert not witness.exists()


def test_an_adopted_vf_does_not_start_again(vfd: Vfd, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    vfd.add("vm1", vfd.vf(0, start_cb=f"touch {witness}"))
    wait_for(witness.exists)
    witness.unlink()
    vfd.stop()
    vfd.start()
    assert vfd.row(0)["name"] == "vm1"
    assert not witness.exists()
