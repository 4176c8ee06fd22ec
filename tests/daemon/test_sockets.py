"""The sockets are where clients look for them, whoever removes them or takes their place."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfd.api.client import Client
from vfd.daemon.exclusive import LOCKS

from .harness import Vfd, wait_for

pytestmark = pytest.mark.root


@pytest.fixture
def vfd(make_vfd: Callable[..., Vfd], tmp_path: Path) -> Iterator[Vfd]:
    folder = tmp_path / "run"
    made = make_vfd(pciids=[], socket=str(folder / "s"), pid_fname=str(folder / "pid"))
    made.socket = folder / "s"
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


def answers(vfd: Vfd) -> bool:
    try:
        return vfd.ask("GET", "/v1/ready")[0] == 200
    except OSError:
        return False


def there_again(vfd: Vfd) -> int:
    """How often the log says so."""
    return vfd.output().count("it is there again")


@pytest.mark.parametrize("suffix", ["", ".root", ".lock"])
def test_one_that_is_removed_is_made_again_and_told(vfd: Vfd, suffix: str) -> None:
    path = Path(f"{vfd.socket}{suffix}")
    before = path.stat()
    path.unlink()
    wait_for(path.exists)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    wait_for(lambda: answers(vfd))
    told = vfd.events("back")
    assert len(told) == 1
    assert str(path) in told[0]["text"]
    assert told[0]["level"] == "warning"


@pytest.mark.parametrize("how", ["removed", "moved", "emptied"])
def test_what_else_the_daemon_keeps_there_is_written_again(
    vfd: Vfd, make_vfd: Callable[..., Vfd], tmp_path: Path, how: str
) -> None:
    folder = vfd.socket.parent
    kept = {path: path.read_text() for path in (folder / "pid", folder / "s.files")}
    [lock] = [path for path in LOCKS.iterdir() if str(vfd.config) in path.read_text()]
    if how != "emptied":
        lock.unlink()
    if how == "removed":
        shutil.rmtree(folder)
    elif how == "moved":
        folder.rename(tmp_path / "elsewhere")
    else:
        for path in kept:
            path.unlink()
    for path, text in kept.items():
        wait_for(path.exists)
        assert path.read_text() == text
    other = make_vfd(pciids=[], pid_fname=str(folder / "pid"))
    other.start()
    assert "no process id is written" in other.output()
    other.stop()
    assert (folder / "pid").read_text() == kept[folder / "pid"]
    vfd.stop()
    assert not (folder / "pid").exists()


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_their_folder_is_made_again_and_the_lock_in_it_is_held(
    vfd: Vfd, make_vfd: Callable[..., Vfd], tmp_path: Path, how: str
) -> None:
    if how == "removed":
        shutil.rmtree(vfd.socket.parent)
    else:
        vfd.socket.parent.rename(tmp_path / "elsewhere")
    wait_for(lambda: answers(vfd))
    other = make_vfd(pciids=[], socket=str(vfd.socket))
    assert other.spawn().wait(20) == 5
    assert "is in use by another daemon" in other.output()
    vfd.socket.unlink()  # heard of in the new folder, too
    wait_for(lambda: answers(vfd))


def test_who_is_connected_stays_so(vfd: Vfd) -> None:
    stream = Client(str(vfd.socket)).stream("/v1/events", {"follow": True})
    old = socket.socket(socket.AF_UNIX)
    old.connect(str(vfd.socket))
    vfd.socket.unlink()
    assert next(stream)["kind"] == "back"
    old.sendall(b"GET /v1/ready HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b" 200 " in old.recv(4096)
    old.close()
    stream.close()  # type: ignore[attr-defined]


def test_another_programs_socket_in_its_place_is_told_and_left_until_it_goes(vfd: Vfd) -> None:
    fresh = vfd.socket.with_name("theirs")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(fresh))
        theirs.listen()
        fresh.rename(vfd.socket)
        inode = vfd.socket.stat().st_ino
        wait_for(lambda: "in use by another program" in vfd.output())
        theirs.settimeout(10)
        for _ in range(3):  # whether it still listens is asked again and again
            theirs.accept()[0].close()
        assert vfd.socket.stat().st_ino == inode
        assert vfd.output().count("in use by another program") == 1  # told once
        assert Client(str(vfd.socket)).get("/v1/ready")["ready"]  # root's own is still there
    vfd.socket.unlink()
    wait_for(lambda: answers(vfd), 10)


@pytest.mark.parametrize("content", [None, "precious"])
def test_what_is_no_socket_is_left_also_at_the_end(vfd: Vfd, content: str | None) -> None:
    vfd.socket.unlink()
    if content is None:
        vfd.socket.mkdir()
    else:
        vfd.socket.write_text(content)
    wait_for(lambda: "is no socket" in vfd.output())
    vfd.stop()
    assert vfd.socket.is_dir() if content is None else vfd.socket.read_text() == content


def test_a_dead_socket_in_its_place_is_replaced(vfd: Vfd) -> None:
    fresh = vfd.socket.with_name("theirs")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(fresh))
    fresh.rename(vfd.socket)
    wait_for(lambda: answers(vfd))


REMOVE = """
import os, sys
while True:
    try: os.unlink(sys.argv[1])
    except OSError: pass
"""


def test_who_removes_it_again_and_again_is_answered_once_a_second(vfd: Vfd) -> None:
    command = [sys.executable, "-S", "-c", REMOVE, str(vfd.socket)]
    with subprocess.Popen(command) as remover:
        began = time.monotonic()
        wait_for(lambda: there_again(vfd) > 3, 20)
        took = time.monotonic() - began
        remover.kill()
    assert there_again(vfd) <= took + 2
    wait_for(lambda: answers(vfd))


def test_a_path_may_be_as_long_as_a_sockets_can(
    make_vfd: Callable[..., Vfd], tmp_path: Path
) -> None:
    name = "s" * (107 - len(str(tmp_path)) - 1)
    vfd = make_vfd(pciids=[], socket=str(tmp_path / name))
    vfd.socket = tmp_path / name
    vfd.start()
    assert Client(str(vfd.socket)).get("/v1/ready")["ready"]
    vfd.stop()


def test_nics_whose_locks_went_with_the_folder_stay_this_daemons(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd(vfs=1)
    vfd.start()
    locks = list(LOCKS.glob(f"{vfd.pf}*"))
    for lock in locks:
        lock.unlink()
    vfd.socket.unlink()
    wait_for(lambda: len(locks) == 1 and locks[0].exists())
    other = make_vfd(pciids=vfd.main["pciids"])
    assert other.spawn().wait(20) == 5
    assert f"NIC {vfd.pf} is in use by another daemon" in other.output()
