"""The daemon under systemd: its unit is well-formed and gives it no mount namespace of its own, its
watchdog hears of it."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from vfd.config.main_file import ParsedMain
from vfd.daemon import runner
from vfd.daemon.privileges import KEPT
from vfd.daemon.service import Service
from vfd.daemon.sockets import CHANGERS, READERS

from .harness import Vfd, holds, wait_for

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/vfd.service"
MOUNT_NAMESPACE = re.compile(
    r"^(Protect(System|Home|Proc|Kernel\w+|ControlGroups)|ProcSubset|Private(Tmp|Devices|Mounts|IPC"
    r"|Users)|MountFlags|Mount\w+|\w+Paths|TemporaryFileSystem|Root\w+|Extension\w+|DynamicUser"
    r"|LogNamespace)="
)
"""systemd.exec(5): with any of these, a mount of the service doesn't reach the host."""


def lines() -> list[str]:
    return [line for line in UNIT.read_text().splitlines() if line and line[0] not in "#["]


def test_a_soft_nics_namespace_is_the_hosts_and_outlives_the_service() -> None:
    assert [line for line in lines() if MOUNT_NAMESPACE.match(line)] == []


def test_the_unit_leaves_the_capabilities_that_the_daemon_keeps_and_one_to_drop_others() -> None:
    sets = [line.split("=")[1].split() for line in lines() if line.startswith("CapabilityBound")]
    named = {name for one in sets for name in one}
    assert named == {f"CAP_{cap.name}" for cap in KEPT} | {"CAP_SETPCAP"}


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, of Debian's package systemd")
    text = re.sub("^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    unit = tmp_path / "vfd-test.service"
    unit.write_text(re.sub("^Documentation=.*", "", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_groups_of_the_sockets_are_what_sysusers_makes(tmp_path: Path) -> None:
    """The file that is shipped, run by systemd's own program for a host in a folder."""
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("needs systemd-sysusers")
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(ROOT / "systemd/vfd.sysusers")]
    subprocess.run(command, check=True, capture_output=True)
    made = (tmp_path / "etc/group").read_text().splitlines()
    assert [line.split(":")[0] for line in made] == [CHANGERS, READERS]


def test_a_nic_that_takes_its_time_is_waited_for_and_one_that_hangs_is_not(
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To systemd's watchdog the daemon is alive meanwhile, for so long."""
    service.stop()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setattr(runner, "PATIENCE", 0.8)

    def told() -> list[float]:
        """The seconds that the NIC thread has been busy, each time that it was told."""
        return [float(n) for n in re.findall(r"NIC thread has been busy for (\S+) s", caplog.text)]

    async def life(notified: socket.socket) -> None:
        alive: list[bool] = []
        """Whether it is told, in each message."""
        asyncio.get_running_loop().add_reader(
            notified, lambda: alive.append(notified.recv(4096) == b"WATCHDOG=1")
        )
        parsed = ParsedMain(service.main, ())
        daemon = runner.Daemon(service, service.journal, lambda: parsed, lambda _: None)
        await daemon.start()
        release = threading.Event()
        busy = asyncio.create_task(daemon.call(release.wait, 20))
        await holds(lambda: max(told(), default=0.0) > runner.PATIENCE)
        patient = [seconds for seconds in told() if seconds < runner.PATIENCE]
        assert sum(alive) >= len(patient) > 0
        alive.clear()
        impatient = len(told())
        await holds(lambda: len(told()) > impatient + 3)
        assert not any(alive)
        release.set()
        await busy
        await holds(lambda: any(alive))
        await daemon.stop()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.setblocking(False)
        asyncio.run(life(notified))
    assert "with Event.wait" in caplog.text


def fill(address: str) -> None:
    """So that the queue of who reads there takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(BlockingIOError):
        sender.setblocking(False)
        while True:
            sender.sendto(b"FILLED=1", address)


def test_a_service_manager_that_reads_nothing_stops_nothing_and_is_told_all_once_it_reads(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.look_every(0.2)
    with vfd.notified(10) as manager:

        def told(last: str) -> list[str]:
            """The kinds of messages up to this one."""
            kinds: list[str] = []
            while last not in kinds:
                kinds.append(manager.recv(4096).decode().split("=")[0])
                assert kinds.count("STATUS") < 50
            return [kind for kind in kinds if kind not in ("FILLED", "STATUS")]

        fill(manager.getsockname())
        vfd.spawn(NOTIFY_SOCKET=manager.getsockname())
        wait_for(vfd.socket.exists, 20)
        assert vfd.add("vm1", vfd.vf(0))[0] == 201
        assert vfd.process is not None
        vfd.process.send_signal(signal.SIGHUP)
        wait_for(lambda: vfd.events("reloaded"))
        assert told("READY") == ["RELOADING", "READY"]
        fill(manager.getsockname())
        vfd.stop()
        assert vfd.process.returncode == 0
