"""Callbacks run as the file's owner, never through a shell, and never for long."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.api.members import CHANGERS, READERS, with_groups

from vfd.config.main_file import ParsedMain
from vfd.daemon import callbacks, runner
from vfd.daemon.request import Made, Source
from vfd.daemon.runner import STARTING
from vfd.daemon.service import Service

from .harness import Vfd, wait_for
from .plain_nic import add, config

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


def test_a_callback_has_its_owners_groups_and_none_of_the_daemons(
    make_vfd: Callable[..., Vfd], tmp_path: Path, open_folder: Path
) -> None:
    vfd = make_vfd()
    with_groups(vfd, tmp_path, "daemon")
    vfd.wrap += ("setpriv", "--groups", str(READERS))
    told = open_folder / "told"
    file = vfd.put_file("vm1", vfd.vf(0, start_cb=f"sh -c 'id -G > {told}'"))
    os.chown(file, DAEMON_USER, DAEMON_USER)
    vfd.start()
    wait_for(lambda: vfd.events("callback"))
    assert set(told.read_text().split()) == {str(DAEMON_USER), str(CHANGERS)}
    told.unlink()
    open_folder.rmdir()


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602])
def test_a_file_that_others_may_write_runs_nothing(vfd: Vfd, tmp_path: Path, mode: int) -> None:
    witness = tmp_path / "ran"
    file = vfd.put_file("vm1", vfd.vf(0, start_cb=f"touch {witness}"))
    file.chmod(mode)
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


def test_stop_cb_runs_before_a_vf_is_taken_and_start_cb_when_it_is_there_again(
    vfd: Vfd, tmp_path: Path
) -> None:
    started, stopped = tmp_path / "started", tmp_path / "stopped"
    vfd.add("vm1", vfd.vf(3, start_cb=f"touch {started}", stop_cb=f"touch {stopped}"))
    wait_for(started.exists)
    started.unlink()
    pf = f"/v1/pfs/{vfd.pf}"
    assert vfd.ask("PATCH", pf, {"vfs": 2})[0] == 422
    assert not stopped.exists()
    assert vfd.ask("PATCH", pf, {"vfs": 2, "force": True})[0] == 200
    assert stopped.exists()
    assert not started.exists()
    assert vfd.ask("PATCH", pf, {"vfs": 4})[0] == 200
    wait_for(started.exists)


def test_a_reload_starts_only_the_vfs_that_it_opens(vfd: Vfd, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    vfd.add("one", vfd.vf(0, start_cb=f"touch {one}"))
    wait_for(one.exists)
    one.unlink()
    vfd.put_file("one", vfd.vf(0, vlans=[7], start_cb=f"touch {one}"))
    vfd.put_file("two", vfd.vf(1, start_cb=f"touch {two}"))
    vfd.reload()
    wait_for(two.exists)
    assert not one.exists()


def in_loop(command: str, time_limit: float = 5) -> tuple[callbacks.Outcome, float]:
    """A callback run as root; its outcome and the seconds that it took."""
    began = time.monotonic()
    run = callbacks.run(
        "stop_cb", command, callbacks.Owner(0, 0), ("vm1", "pf", 0), time_limit=time_limit
    )
    return asyncio.run(run), time.monotonic() - began


@pytest.mark.root
def test_a_callback_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script = f"sleep 77 & echo $! > {tmp_path}/child; sleep 77"
    outcome, took = in_loop(f"sh -c '{script}'", time_limit=0.5)
    assert not outcome.ok
    assert "longer than 0.5 s" in outcome.text
    assert took < 3
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_running(child))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.root
def test_what_a_callback_leaves_running_holds_up_nobody() -> None:
    outcome, took = in_loop("sh -c 'setsid sleep 4 & exit 3'")
    assert outcome.text.startswith("stop_cb ended with status 3")
    assert took < 3


@pytest.mark.root
def test_a_callbacks_flood_of_words_neither_stops_it_nor_fills_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", "vfd.callback"):
        outcome, _ = in_loop("sh -c 'yes | head -c 3000000'")
    assert outcome.ok
    assert 1000 < sum(len(r.getMessage()) for r in caplog.records) < 16 * callbacks.OUTPUT_LIMIT


@pytest.mark.long
def test_a_deletion_waits_for_stop_cb_until_its_time_is_over(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0, stop_cb="sleep 77"))
    began = time.monotonic()
    vfd.patience = callbacks.TIME_LIMIT + 10
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert callbacks.TIME_LIMIT <= time.monotonic() - began < callbacks.TIME_LIMIT + 5
    assert "took longer" in vfd.events("callback")[0]["text"]
    assert vfd.row(0)["state"] == "closed"


def test_a_vf_is_deleted_once_and_only_as_it_was_asked_for(vfd: Vfd, tmp_path: Path) -> None:
    """Whatever happens while its stop_cb runs."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    stop = script(tmp_path / "stop", f"echo >> {ran}; until [ -e {go} ]; do sleep 0.05; done")
    config = vfd.vf(0, stop_cb=str(stop))
    with ThreadPoolExecutor() as pool:

        def deleting() -> Future[tuple[int, Any]]:
            ran.unlink(missing_ok=True)
            go.unlink(missing_ok=True)
            asked = pool.submit(vfd.ask, "DELETE", "/v1/vfs/vm1")
            wait_for(ran.exists)
            return asked

        def deleted(asked: Future[tuple[int, Any]]) -> tuple[int, Any]:
            go.touch()
            return asked.result()

        vfd.add("vm1", config)
        first = deleting()
        status, error = vfd.ask("DELETE", "/v1/vfs/vm1")
        assert (status, error["type"]) == (409, "conflict")
        assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 0, "force": True})[0] == 409
        assert deleted(first)[0] == 200
        assert ran.read_text() == "\n"
        assert vfd.add("vm1", config)[0] == 201

        first = deleting()
        changed = {**config, "vlans": [7]}
        assert vfd.ask("PUT", "/v1/vfs/vm1", {"config": changed})[0] == 200
        status, error = deleted(first)
        assert (status, error["type"]) == (409, "conflict")
        assert "changed while its stop_cb ran" in error["detail"]
        assert vfd.row(0)["extended"]["vlans"] == [7]

        first = deleting()
        vfd.reload()
        assert deleted(first)[0] == 200
        assert vfd.row(0)["state"] == "closed"


def test_a_vf_that_is_changed_as_it_is_deleted_is_deleted(service: Service) -> None:
    """No stop_cb ran, so none ran for what the VF no longer is."""

    async def deleted() -> Made | None:
        parsed = ParsedMain(service.main, ())
        daemon = runner.Daemon(service, service.journal, lambda: parsed, lambda _: None)
        deleting = asyncio.create_task(daemon.delete("vm1"))
        await asyncio.sleep(0)  # it looks which VF that is
        source = Source(name="vm1", config=config(service, 0, vlans=[7]))
        await daemon.call(service.update, "vm1", source, 0, 0)
        made = await deleting
        await daemon.stop()
        return made

    add(service, "vm1", 0)
    made = asyncio.run(deleted())
    assert made
    assert made.vfid == 0
    assert not [*service.in_force()]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_few_callbacks_start_at_a_time(make_vfd: Callable[..., Vfd], tmp_path: Path) -> None:
    count = 3 * STARTING
    vfd = make_vfd(vfs=count)
    running = tmp_path / "running"
    running.mkdir()
    start = script(
        tmp_path / "start",
        f"touch {running}/$VFD_VFID; ls {running} | wc -l >> {tmp_path}/seen; sleep 0.3;"
        f" rm {running}/$VFD_VFID; echo >> {tmp_path}/ended",
    )
    for vfid in range(count):
        vfd.put_file(f"vm{vfid}", vfd.vf(vfid, start_cb=str(start)))
    vfd.start()
    ended = tmp_path / "ended"
    wait_for(lambda: ended.exists() and ended.stat().st_size == count, 20)
    assert max(map(int, (tmp_path / "seen").read_text().split())) <= STARTING


def test_start_cb_has_ended_before_stop_cb_runs(vfd: Vfd, tmp_path: Path) -> None:
    go, told = tmp_path / "go", tmp_path / "told"
    waiting = f"until [ -e {go} ]; do sleep 0.05; done"
    start = script(tmp_path / "start", f"echo start >> {told}; {waiting}; echo up >> {told}")
    stop = script(tmp_path / "stop", f"echo stop >> {told}")
    vfd.add("vm1", vfd.vf(0, start_cb=str(start), stop_cb=str(stop)))
    wait_for(told.exists)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(vfd.ask, "DELETE", "/v1/vfs/vm1") for _ in range(2)]
        wait_for(lambda: any(one.done() for one in asked))  # it is refused for the other
        assert vfd.row(0)["name"] == "vm1"
        go.touch()
        assert sorted(one.result()[0] for one in asked) == [200, 409]
    assert told.read_text().split() == ["start", "up", "stop"]


def test_start_cb_does_not_run_for_a_vf_that_was_closed_while_it_waited_for_others(
    make_vfd: Callable[..., Vfd], tmp_path: Path
) -> None:
    vfd = make_vfd(vfs=STARTING + 3)
    go, told = tmp_path / "go", tmp_path / "told"
    slow = script(tmp_path / "slow", f"until [ -e {go} ]; do sleep 0.05; done")
    late = script(tmp_path / "late", f"echo $VFD_NAME $VFD_EVENT >> {told}")
    vfd.start()
    for vfid in range(STARTING):
        vfd.add(f"slow{vfid}", vfd.vf(vfid, start_cb=str(slow)))
    for vfid, name in enumerate(("deleted", "again", "taken"), STARTING):
        vfd.add(name, vfd.vf(vfid, start_cb=str(late), stop_cb=str(late)))
    for name in ("deleted", "again"):
        assert vfd.ask("DELETE", f"/v1/vfs/{name}")[0] == 200
    vfd.add("again", vfd.vf(STARTING + 1, start_cb=str(late)))
    (vfd.config_dir / "taken.json").unlink()
    vfd.reload()
    go.touch()
    wait_for(lambda: len(vfd.events("callback")) == STARTING + 3, 20)
    assert sorted(told.read_text().splitlines()) == [
        "again start_cb",
        "again stop_cb",
        "deleted stop_cb",
    ]
