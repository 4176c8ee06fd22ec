"""One daemon per NIC and socket, least privilege, and only those asked in who may ask."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def test_the_socket_is_roots_and_the_groups_alone(vfd: Vfd) -> None:
    status = vfd.socket.stat()
    assert status.st_mode & 0o007 == 0
    assert status.st_uid == 0


ASK = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    print("the kernel refuses"); sys.exit()
s.sendall(b"GET /v1/version HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
print(s.makefile().read())
"""


def test_a_user_outside_the_group_is_refused_by_the_kernel_and_by_the_daemon(
    make_vfd: Callable[..., Vfd],
) -> None:
    # A path that nobody may walk, unlike pytest's.
    vfd = make_vfd(socket=f"/tmp/vfd-test-{os.getpid()}.s")
    vfd.socket = Path(vfd.main["socket"])
    vfd.start()

    def ask() -> str:
        command = [sys.executable, "-S", "-c", ASK, str(vfd.socket)]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout

    try:
        assert "the kernel refuses" in ask()
        vfd.socket.chmod(0o666)
        answer = ask()
        assert " 403 " in answer
        assert json.loads(answer.split("\n\n", 1)[1])["exit"] == 3
        wait_for(lambda: f"uid={NOBODY}" in vfd.output())
    finally:
        vfd.socket.unlink(missing_ok=True)
        Path(f"{vfd.socket}.lock").unlink(missing_ok=True)


def test_it_keeps_the_capabilities_that_it_needs_and_no_more(vfd: Vfd) -> None:
    assert vfd.process is not None
    allowed = sum(1 << cap for cap in KEPT)
    for task in Path(f"/proc/{vfd.process.pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        assert status["NoNewPrivs"] == "1"
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(status[name], 16) & ~allowed == 0, name


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


def test_an_idle_daemon_uses_no_cpu_to_speak_of(vfd: Vfd) -> None:
    assert vfd.process is not None

    def ticks() -> int:
        fields = Path(f"/proc/{vfd.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    time.sleep(0.5)
    before = ticks()
    time.sleep(3)
    assert ticks() - before <= 2  # of 300
