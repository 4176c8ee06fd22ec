"""The control plane's figures: a real daemon with a software NIC of 256 VFs, and iplex."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench.contestants import mac_of
from bench.figure import Figure
from bench.traffic import BenchError, process_cpu
from vfd.nic import soft
from vfd.policy.values import PfPolicy

VFS = 256
_BIN = Path(sys.executable).parent


class _Host:
    """A folder with a configuration of 256 VFs, and the daemon that runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nic = f"bc{os.getpid() % 10000}"
        self.socket = folder / "vfd.sock"
        self.config = folder / "vfd.cfg"
        self.vfs = folder / "vfs"
        self.process: subprocess.Popen[bytes] | None = None
        self.vfs.mkdir()
        self.config.write_text(
            json.dumps(
                {
                    "config_dir": str(self.vfs),
                    "log_dir": str(folder),
                    "socket": str(self.socket),
                    "pid_fname": str(folder / "vfd.pid"),
                    "pciids": [{"id": self.nic, "backend": "soft", "vfs": VFS}],
                }
            )
        )
        for vfid in range(VFS):
            self.write(vfid, 100 + vfid)

    def write(self, vfid: int, vlan: int) -> None:
        (self.vfs / f"vf{vfid}.json").write_text(json.dumps(self.policy(vfid, vlan)))

    def policy(self, vfid: int, vlan: int) -> dict[str, object]:
        return {"pciid": self.nic, "vfid": vfid, "vlans": [vlan], "strip_ctag": True,
                "vm_mac": mac_of(vfid)}  # fmt: skip

    def start(self) -> float:
        """Starts the daemon; seconds from exec until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            where = str(self.folder / "notify")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(where)  # noqa: PTH108
            notify.bind(where)
            notify.settimeout(30)
            began = time.perf_counter()
            self.process = subprocess.Popen(
                [str(_BIN / "vfd"), "--config", str(self.config)],
                env={**os.environ, "NOTIFY_SOCKET": where},
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / "stderr").open("wb"),
            )
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
            except TimeoutError as error:
                said = (self.folder / "stderr").read_text()[-2000:]
                raise BenchError(f"the daemon was not ready in 30 s: {said}") from error
            return time.perf_counter() - began

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def change(self, vfid: int, vlan: int) -> float:
        """One policy change through the API, seconds."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.socket))
        body = json.dumps({"name": f"vf{vfid}", "config": self.policy(vfid, vlan)})
        began = time.perf_counter()
        connection.request("PUT", f"/v1/vfs/vf{vfid}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        took = time.perf_counter() - began
        connection.close()
        if answer.status >= 300:
            raise BenchError(f"the daemon refused a change: {said.decode()}")
        return took


@contextlib.contextmanager
def _host() -> Iterator[_Host]:
    with tempfile.TemporaryDirectory(prefix="vfd-bench-") as folder:
        host = _Host(Path(folder))
        try:
            yield host
        finally:
            host.stop()
            soft.destroy(PfPolicy(id=host.nic, backend="soft", vfs=VFS))


def control_figures(say: Console) -> list[Figure]:
    """Every bar of the control plane, on a real daemon with 256 VFs."""
    figures = []
    with _host() as host:
        say.print(f"creating {VFS} VFs with policies", style="dim")
        figures.append(
            Figure(f"daemon start, {VFS} VFs created with policies", host.start(), 1.5, "s")
        )
        say.print("restarting the daemon", style="dim")
        adopted = []
        for _ in range(5):
            host.stop(signal.SIGKILL)
            adopted.append(host.start())
        figures.append(
            Figure(f"daemon restart after SIGKILL, adopting {VFS} VFs", statistics.median(adopted),
                   0.5, "s")
        )  # fmt: skip
        say.print("changing policies", style="dim")
        changes = [host.change(vfid, 1000 + vfid) for vfid in range(0, VFS, 8)]
        figures.append(
            Figure(
                "one policy change, request to answer", statistics.median(changes) * 1e3, 5, "ms"
            )
        )
        say.print("iplex show all", style="dim")
        figures.append(Figure(f"iplex show all, {VFS} VFs", _show_all(host), 0.3, "s"))
        assert host.process is not None
        pid = host.process.pid
        figures.append(Figure("daemon, resident memory", _resident(pid) / 1e6, 100, "MB"))
        say.print("watching the daemon do nothing", style="dim")
        before = process_cpu(pid)
        time.sleep(20)
        idle = (process_cpu(pid) - before) / 20 * 100
        figures.append(Figure("daemon, CPU when idle", idle, 0.5, "%"))
    return figures


def _show_all(host: _Host) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run(
            [str(_BIN / "iplex"), "--socket", str(host.socket), "show", "all"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
