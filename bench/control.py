"""The control plane's figures: a real daemon with a software NIC of 256 VFs, and iplex.

Each time is shown as a multiple of one that was measured right beside it: of the same work without
vfd, of a Python that does nothing, of a request that changes nothing and a file made to last.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.contestants import mac_of
from bench.figure import Figure
from bench.host import BIN, Host, running
from bench.ratios import Slices
from bench.traffic import process_cpu, run
from vfd.api.client import Client

VFS = 256


def _policy(vfid: int, vlan: int) -> dict[str, Any]:
    return {"vfid": vfid, "vlans": [vlan], "strip_ctag": True, "vm_mac": mac_of(vfid)}


def control_figures(say: Console) -> list[Figure]:
    """Every bar of the control plane, on a real daemon with 256 VFs."""
    policies = {f"vf{vfid}": _policy(vfid, 100 + vfid) for vfid in range(VFS)}
    nic = f"bc{os.getpid() % 10000}"

    def create() -> float:
        with running(policies, nic=nic, vfs=VFS) as host:
            return host.start()

    say.print(f"creating {VFS} VFs with policies", style="dim")
    figures = [
        beside(f"daemon start, {VFS} VFs created with policies", create, _by_hand, 3,
               4, "ip and tc that make the ports"),
    ]  # fmt: skip
    with running(policies, nic=nic, vfs=VFS) as host:
        host.start()

        def restart() -> float:
            host.stop(signal.SIGKILL)
            return host.start()

        turns = iter(range(0, VFS, 4))

        def change() -> float:
            vfid = next(turns)
            return host.update(f"vf{vfid}", _policy(vfid, 1000 + vfid))

        client = Client(str(host.socket))
        say.print("restarting the daemon, changing policies, iplex show all", style="dim")
        figures += [
            beside(f"daemon restart after SIGKILL, adopting {VFS} VFs", restart, _python, 7,
                   45, "an empty Python"),
            beside("one policy change, request to answer", change,
                   lambda: _timed(lambda: client.get("/v1/version")) + _durable(host.folder), 60,
                   3, "a request for the version and a file"),
            beside(f"iplex show all, {VFS} VFs", lambda: _show_all(host), _python, 15,
                   15, "an empty Python"),
        ]  # fmt: skip
        assert host.process is not None
        pid = host.process.pid
        figures.append(Figure("daemon, resident memory", _resident(pid) / 1e6, 100, "MB"))
        say.print("watching the daemon do nothing", style="dim")
        before = process_cpu(pid)
        time.sleep(20)
        idle = (process_cpu(pid) - before) / 20 * 100
        figures.append(Figure("daemon, CPU when idle", idle, 0.5, "%"))
    return figures


def beside(
    what: str, ours: Callable[[], float], its: Callable[[], float], rounds: int, bar: float,
    its_name: str,
) -> Figure:  # fmt: skip
    """Both in turn, each returning seconds, and the ratio."""
    pairs = [(its(), ours()) for _ in range(rounds)]
    times = Slices({"its": [[pair[0]] for pair in pairs], "ours": [[pair[1]] for pair in pairs]})
    both = f"{times.median('ours') * 1e3:.4g} and {times.median('its') * 1e3:.4g} ms"
    return Figure(what, times.ratio("ours", "its").median, bar, f"× {its_name}", both)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _python() -> float:
    return _timed(lambda: run(sys.executable, "-c", "pass"))


def _durable(folder: Path) -> float:
    """A small file, new or not at all, whatever happens to the machine."""

    def write() -> None:
        fresh = folder / "durable.new"
        with fresh.open("wb") as file:
            file.write(bytes(200))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(folder / "durable")
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(here)
        os.close(here)

    return _timed(write)


def _by_hand() -> float:
    """As many ports in a namespace, up and with a hook each, by iproute2's batches."""
    netns = f"bh{os.getpid() % 10000}"
    links = "\n".join(
        f"link add v{vfid} address {mac_of(vfid)} type veth peer name g{vfid}\nlink set v{vfid} up"
        for vfid in range(VFS)
    )
    hooks = "\n".join(f"qdisc add dev v{vfid} ingress_block 2 clsact" for vfid in range(VFS))
    run("ip", "netns", "add", netns)
    try:
        return _timed(
            lambda: (
                run("ip", "-n", netns, "-batch", "-", stdin=links),
                run("tc", "-n", netns, "-batch", "-", stdin=hooks),
            )
        )
    finally:
        run("ip", "netns", "del", netns)


def _show_all(host: Host) -> float:
    command = (str(BIN / "iplex"), "--socket", str(host.socket), "show", "all")
    return _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
