"""Traffic through a contestant, and what it cost."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_MULTIARCH = f"/usr/include/{os.uname().machine}-linux-gnu"


class BenchError(Exception):
    """A tool failed or is missing; says which and what to install."""


def run(*command: str, stdin: str | None = None) -> str:
    """A command's output. Raises BenchError with what it said."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not installed: run `make deps`") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{' '.join(command)}: {error.stderr.strip()}") from error
    return done.stdout


@dataclass(frozen=True, slots=True)
class Tools:
    """The generator and the sink, compiled."""

    pktgen: Path
    sink: Path

    @staticmethod
    def build(folder: Path) -> Tools:
        tools = Tools(folder / "pktgen", folder / "sink.o")
        run("gcc", "-O2", "-Wall", "-o", str(tools.pktgen), str(HERE / "pktgen.c"))
        run("clang", "-O2", "-target", "bpf", f"-I{_MULTIARCH}", "-c", str(HERE / "sink.bpf.c"),
            "-o", str(tools.sink))  # fmt: skip
        return tools


@dataclass(frozen=True, slots=True)
class Guest:
    """One end of a contestant: a netdev in a namespace."""

    netns: str
    netdev: str
    mac: str
    address: str

    def received(self) -> int:
        """Packets its netdev has received."""
        out = run("ip", "-n", self.netns, "-j", "-s", "link", "show", "dev", self.netdev)
        return int(json.loads(out)[0]["stats64"]["rx"]["packets"])

    def swallow(self, sink: Path) -> None:
        """Makes the guest drop all it receives, at no cost."""
        tc = ("ip", "netns", "exec", self.netns, "tc")
        run(*tc, "qdisc", "replace", "dev", self.netdev, "clsact")
        run(*tc, "filter", "replace", "dev", self.netdev, "ingress", "pref", "1", "handle", "1",
            "bpf", "da", "obj", str(sink), "sec", "tc")  # fmt: skip

    def listen(self) -> None:
        run("ip", "netns", "exec", self.netns, "tc", "qdisc", "del", "dev", self.netdev, "clsact")


@dataclass(frozen=True, slots=True)
class Cost:
    """One measurement of a stream."""

    packets: int
    wall: float
    cpu: float

    @property
    def ns_per_packet(self) -> float:
        return self.cpu * 1e9 / max(1, self.packets)


def stream(
    tools: Tools,
    source: Guest,
    sink: Guest,
    size: str,
    seconds: float,
    helper_cpu: Callable[[], float],
) -> Cost:
    """Frames of ``size`` from ``source`` to ``sink`` as fast as they go.

    CPU time is the generator's, ksoftirqd's and that of helper processes (a userspace switch).
    """
    before = sink.received()
    softirq, helper = _ksoftirqd(), helper_cpu()
    out = json.loads(
        run("ip", "netns", "exec", source.netns, str(tools.pktgen), source.netdev, sink.mac,
            source.mac, size, str(seconds), "0")
    )  # fmt: skip
    time.sleep(0.02)  # what is still in a backlog arrives
    cpu = out["cpu"] + _ksoftirqd() - softirq + helper_cpu() - helper
    return Cost(sink.received() - before, out["wall"], cpu)


def tcp(source: Guest, sink: Guest, seconds: float) -> float:
    """TCP goodput from one guest to the other, bits per second, offloads as they are."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            ["ip", "netns", "exec", sink.netns, "taskset", "-c", "1", "iperf3", "-s", "-1"],
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for_listener(sink.netns, server)
            out = run("ip", "netns", "exec", source.netns, "taskset", "-c", "0", "iperf3", "-J",
                      "-c", sink.address, "-t", str(seconds))  # fmt: skip
        finally:
            server.terminate()
            server.wait(5)
    ends = json.loads(out)["end"]
    if "sum_received" not in ends:
        raise BenchError(f"iperf3: {json.loads(out).get('error', 'no connection')}")
    return float(ends["sum_received"]["bits_per_second"])


def _wait_for_listener(netns: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if ":5201" in run("ip", "netns", "exec", netns, "ss", "-ltn"):
            return
        if server.poll() is not None:
            break
        time.sleep(0.02)
    raise BenchError("iperf3's server did not start")


def process_cpu(pid: int) -> float:
    """CPU time of a process with all its threads, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ksoftirqd() -> float:
    """CPU time of the kernel's softirq threads, seconds."""
    total = 0
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().startswith("ksoftirqd"):
                total += int((entry / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9
