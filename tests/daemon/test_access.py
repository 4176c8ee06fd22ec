"""One daemon per NIC and socket, least privilege, and only those asked in who may ask."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfd.daemon import exclusive
from vfd.daemon.exclusive import LOCKS, InUseError
from vfd.daemon.privileges import KEPT

from .harness import Vfd, wait_for

NOBODY = 65534


def test_a_second_daemon_on_the_same_nic_is_refused(vfd: Vfd, make_vfd: Callable[..., Vfd]) -> None:
    other = make_vfd(pciids=vfd.main["pciids"])
    assert other.spawn().wait(10) == 5
    assert f"NIC {vfd.pf} is in use" in other.output()
    assert str(vfd.config) in other.output()
    assert vfd.get("/v1/health")["status"] == "ok"


def test_a_second_daemon_on_the_same_socket_is_refused(
    vfd: Vfd, make_vfd: Callable[..., Vfd]
) -> None:
    other = make_vfd(socket=str(vfd.socket))
    assert other.spawn().wait(10) == 5
    assert "is in use" in other.output()
    assert vfd.get("/v1/health")["status"] == "ok"


def test_daemons_with_their_own_nics_run_side_by_side(make_vfd: Callable[..., Vfd]) -> None:
    one, two = make_vfd(), make_vfd()
    one.start()
    two.start()
    one.add("vm", one.vf(0))
    two.add("vm", two.vf(0, vlans=[7]))
    assert one.row(0)["extended"]["vlans"] == [100]
    assert two.row(0)["extended"]["vlans"] == [7]


def test_a_dead_daemons_socket_is_replaced_and_anything_else_is_left(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.start()
    vfd.stop(signal.SIGKILL)
    assert vfd.socket.exists()
    vfd.start()
    vfd.stop()
    vfd.socket.write_text("precious")
    assert vfd.spawn().wait(10) == 5
    assert "is no socket" in vfd.output()
    assert vfd.socket.read_text() == "precious"


HOLD_ALL = """
import fcntl, os, pathlib, sys
os.setgid(65534); os.setuid(65534)
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        print("held", path, flush=True)
    except PermissionError:
        pass
print("tried", flush=True)
sys.stdin.read()
"""


def test_no_other_user_can_hold_a_lock_and_so_keep_the_daemon_from_starting(
    make_vfd: Callable[..., Vfd],
) -> None:
    with tempfile.TemporaryDirectory(prefix="vfd-test-") as folder:
        Path(folder).chmod(0o755)
        vfd = make_vfd(socket=f"{folder}/s", pid_fname=f"{folder}/pid")
        vfd.socket = Path(vfd.main["socket"])
        vfd.start()
        locks = [*LOCKS.glob(f"*{vfd.pf}*"), *LOCKS.glob("pid-*"), Path(f"{folder}/s.lock")]
        vfd.stop(signal.SIGKILL)
        assert len(locks) >= 2
        command = [sys.executable, "-S", "-c", HOLD_ALL, *map(str, locks), f"{folder}/pid"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            while (line := other.stdout.readline()) != "tried\n":
                assert line == f"held {folder}/pid\n", "which is no lock"
            vfd.start()
            other.kill()
        vfd.stop()


def test_a_folder_for_locks_that_somebody_else_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder to somebody else")
    locks = tmp_path / "vfd/locks"
    monkeypatch.setattr(exclusive, "LOCKS", locks)
    locks.mkdir(parents=True)
    os.chown(locks, NOBODY, NOBODY)
    with pytest.raises(InUseError, match="not root's own"):
        exclusive.lock_nic("soft0", "test")
    os.chown(locks, 0, 0)
    locks.chmod(0o777)
    lock = exclusive.lock_nic("soft0", "test")
    assert locks.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InUseError, match="in use by another daemon"):
        exclusive.lock_nic("soft0", "test")
    lock.close()
    locks.parent.chmod(0o777)
    with pytest.raises(InUseError, match="not root's own"):
        exclusive.lock_nic("soft0", "test")


def test_a_daemon_that_is_refused_leaves_the_others_pid_file(
    vfd: Vfd, make_vfd: Callable[..., Vfd]
) -> None:
    assert vfd.process is not None
    pid = Path(vfd.main["pid_fname"])
    other = make_vfd(pciids=vfd.main["pciids"], pid_fname=str(pid))
    assert other.spawn().wait(10) == 5
    assert pid.read_text() == f"{vfd.process.pid}\n"


def test_a_pid_file_stays_the_first_daemons_and_the_second_says_so(
    vfd: Vfd, make_vfd: Callable[..., Vfd]
) -> None:
    assert vfd.process is not None
    pid = Path(vfd.main["pid_fname"])
    other = make_vfd(pid_fname=str(pid))
    other.start()
    assert f"pid file {pid} is in use by another daemon (pid {vfd.process.pid}" in other.output()
    assert pid.read_text() == f"{vfd.process.pid}\n"
    other.stop()
    assert pid.read_text() == f"{vfd.process.pid}\n"
    vfd.stop(signal.SIGKILL)
    other.start()
    assert other.process is not None
    assert pid.read_text() == f"{other.process.pid}\n"
    other.stop()
    assert not pid.exists()


def test_the_socket_is_roots_and_the_groups_alone(vfd: Vfd) -> None:
    status = vfd.socket.stat()
    assert status.st_mode & 0o007 == 0
    assert status.st_uid == 0


ASK = """
import os, socket, sys
path, user, group, groups = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
os.setgroups([int(g) for g in groups]); os.setgid(group); os.setuid(user)
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(path)
except PermissionError:
    print("the kernel refuses"); sys.exit()
s.sendall(b"GET /v1/version HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
print(s.makefile().read())
"""
NOBODY_IN_GROUP = 64999
"""A gid that no host gives to anybody."""


def ask_as(path: Path, user: int, group: int, *groups: int) -> str:
    """What a process of this user and these groups gets from the API."""
    arguments = [str(path), *map(str, (user, group, *groups))]
    command = [sys.executable, "-S", "-c", ASK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout


@pytest.fixture
def open_socket(make_vfd: Callable[..., Vfd]) -> Iterator[Vfd]:
    """A daemon without a NIC, with its socket in a folder that anybody may walk, unlike pytest's.

    Not started yet.
    """
    with tempfile.TemporaryDirectory(prefix="vfd-test-") as folder:
        Path(folder).chmod(0o755)
        vfd = make_vfd(socket=f"{folder}/s", pciids=[])
        vfd.socket = Path(vfd.main["socket"])
        yield vfd
        if vfd.process is not None and vfd.process.poll() is None:
            vfd.stop()


def test_members_of_the_group_are_let_in_and_nobody_else(open_socket: Vfd, tmp_path: Path) -> None:
    """The group is in an /etc/group of the daemon's own, in a mount namespace that ends with it."""
    vfd = open_socket
    group = tmp_path / "group"
    lines = [line for line in Path("/etc/group").read_text().splitlines() if line[:4] != "vfd:"]
    group.write_text("\n".join([*lines, f"vfd:x:{NOBODY_IN_GROUP}:", ""]))
    vfd.wrap = (
        # a slave lets go of what is unmounted outside, as by the test that runs beside it
        *("unshare", "--mount", "--propagation", "slave", "sh", "-c"),
        *('mount --bind "$1" /etc/group && shift && exec "$@"', "sh", str(group)),
    )
    vfd.start()
    assert (vfd.socket.stat().st_mode & 0o777, vfd.socket.stat().st_gid) == (0o660, NOBODY_IN_GROUP)
    assert " 200 " in ask_as(vfd.socket, NOBODY, NOBODY_IN_GROUP)
    assert " 200 " in ask_as(vfd.socket, NOBODY, NOBODY, 7, NOBODY_IN_GROUP)
    assert "the kernel refuses" in ask_as(vfd.socket, NOBODY, NOBODY, 7)
    vfd.socket.chmod(0o666)
    assert " 200 " in ask_as(vfd.socket, NOBODY, NOBODY, NOBODY_IN_GROUP)
    assert " 403 " in ask_as(vfd.socket, NOBODY, NOBODY, 7)


def test_a_user_outside_the_group_is_refused_by_the_kernel_and_by_the_daemon(
    open_socket: Vfd,
) -> None:
    vfd = open_socket
    vfd.start()
    assert "the kernel refuses" in ask_as(vfd.socket, NOBODY, NOBODY)
    vfd.socket.chmod(0o666)
    answer = ask_as(vfd.socket, NOBODY, NOBODY)
    assert " 403 " in answer
    assert json.loads(answer.split("\n\n", 1)[1])["exit"] == 3
    wait_for(lambda: f"uid={NOBODY}" in vfd.output())


def test_it_keeps_the_capabilities_that_it_needs_and_no_more(vfd: Vfd) -> None:
    assert vfd.process is not None
    allowed = sum(1 << cap for cap in KEPT)
    for task in Path(f"/proc/{vfd.process.pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        assert status["NoNewPrivs"] == "1"
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(status[name], 16) & ~allowed == 0, name


@pytest.mark.measured
def test_sigterm_ends_it_within_a_second_even_while_somebody_listens(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.connect(str(vfd.socket))
        listener.sendall(b"GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" in listener.recv(64)
        assert vfd.stop() < 1
    assert vfd.process is not None
    assert vfd.process.returncode == 0
    assert not vfd.socket.exists()
    netdev = subprocess.run(["ip", "link", "show", f"{vfd.pf}v0"], capture_output=True)
    assert netdev.returncode == 0, "the NIC must stay when the daemon goes"


@pytest.mark.measured
def test_an_idle_daemon_uses_no_cpu_to_speak_of(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd()
    vfd.wrap = ("unshare", "--net")  # the kernel tells it of no other test's netdevs
    vfd.start()
    assert vfd.process is not None
    pid = vfd.process.pid

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    vfd.get("/v1/health")  # only then is the HTTP library loaded
    time.sleep(0.5)
    before = ticks()
    time.sleep(3)
    assert ticks() - before <= 2  # of 300


def test_a_socket_that_can_not_be_made_is_told_as_such(make_vfd: Callable[..., Vfd]) -> None:
    vfd = make_vfd(socket="/proc/nowhere/vfd.sock")
    assert vfd.spawn().wait(10) == 5
    assert "vfd: socket /proc/nowhere/vfd.sock can't be made: " in vfd.output()
