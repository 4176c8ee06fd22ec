"""The control plane's figures: a real daemon with a software NIC of 256 VFs, and iplex."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.contestants import mac_of
from bench.figure import Figure
from bench.host import BIN, Host, running
from bench.traffic import process_cpu

VFS = 256


def _policy(vfid: int, vlan: int) -> dict[str, Any]:
    return {"vfid": vfid, "vlans": [vlan], "strip_ctag": True, "vm_mac": mac_of(vfid)}


def control_figures(say: Console) -> list[Figure]:
    """Every bar of the control plane, on a real daemon with 256 VFs."""
    figures = []
    policies = {f"vf{vfid}": _policy(vfid, 100 + vfid) for vfid in range(VFS)}
    with running(policies, nic=f"bc{os.getpid() % 10000}", vfs=VFS) as host:
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
        changes = [
            host.update(f"vf{vfid}", _policy(vfid, 1000 + vfid)) for vfid in range(0, VFS, 8)
        ]
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


def _show_all(host: Host) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run(
            [str(BIN / "iplex"), "--socket", str(host.socket), "show", "all"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
