"""Races: contestants' lanes in short slices on one CPU, by ``race.c``; and commands."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.compile_bpf import compile_one

from bench.ratios import Slices

HERE = Path(__file__).parent
SLICE = 0.005
"""Seconds: what disturbs a machine mostly lasts longer, and so falls on neighbours alike."""
TCP_SLICE = 0.02
"""TCP's own clocks make shorter ones differ."""
LOSS = 0.01
"""A lane that loses more of its frames than this carries less than it seems to."""
TCP, RTT = "tcp", "rtt"


class BenchError(Exception):
    """A tool failed or is missing; says which and what to install."""


def run(*command: str, stdin: str | None = None) -> str:
    """A command's output. Raises BenchError with what it said."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not installed: run `make deps`") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{' '.join(command)[:300]}: {error.stderr.strip()}") from error
    return done.stdout


@dataclass(frozen=True, slots=True)
class Tools:
    """What is compiled: the racer, the sink and the floor's programs."""

    race: Path
    sink: Path
    floor: Path

    @staticmethod
    def build(folder: Path) -> Tools:
        tools = Tools(folder / "race", folder / "sink.bpf.o", folder / "floor.bpf.o")
        run("gcc", "-O2", "-Wall", "-pthread", "-o", str(tools.race), str(HERE / "race.c"))
        for compiled in (tools.sink, tools.floor):
            compile_one(HERE / compiled.with_suffix(".c").name, compiled)
        return tools


@dataclass(frozen=True, slots=True)
class Guest:
    """One end of a contestant: a netdev in a namespace."""

    netns: str
    netdev: str
    mac: str
    address: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """A way through a contestant, as a row of a table calls it."""

    who: str
    what: str
    """The policy, or the flow."""
    vfs: int | None
    hook: str
    """Where its program sits; none: it has none."""
    source: Guest
    sinks: tuple[Guest, ...]
    """Frames go to one after the other; sockets use the first. What has no namespace is nobody."""
    source_mac: str = ""
    """Else the source's own."""
    peer: bool = True
    """An empty program in its place would deliver by ``bpf_redirect_peer``."""

    def arguments(self, kind: str) -> str:
        """As ``race.c`` reads them."""
        if kind in (TCP, RTT):
            far = self.sinks[0]
            return f"{self.source.netns},{self.source.address},{far.netns},{far.address}"
        source = (self.source.netns, self.source.netdev, self.source_mac or self.source.mac)
        return ",".join((*source, *(sink.mac for sink in self.sinks)))


def race(tools: Tools, kind: str, lanes: Sequence[Lane], rounds: int) -> Slices[Lane]:
    """``kind``: bytes of a frame without FCS, ``imix``, ``tcp`` or ``rtt``. Raises BenchError, also
    where a lane loses frames: what is lost early costs little."""
    cpu, seconds = max(os.sched_getaffinity(0)), TCP_SLICE if kind == TCP else SLICE
    before = {lane.sinks: received(lane.sinks) for lane in lanes}
    out = run(str(tools.race), kind, str(cpu), _ksoftirqd(cpu), str(seconds), str(rounds),
              *(lane.arguments(kind) for lane in lanes))  # fmt: skip
    slices: dict[Lane, list[list[float]]] = defaultdict(list)
    sent: dict[tuple[Guest, ...], int] = defaultdict(int)
    for line in out.splitlines():
        match line.split():
            case ["slice", number, *values]:
                slices[lanes[int(number)]].append([float(value) for value in values])
            case ["sent", number, count] if kind not in (TCP, RTT):
                sent[lanes[int(number)].sinks] += int(count)
            case ["cpu", counted, present] if kind not in (TCP, RTT):
                _complete(float(counted), float(present))
    for sinks, frames in sent.items():
        got = received(sinks) - before[sinks]
        if sinks[0].netns and got < frames * (1 - LOSS):
            names = "; ".join(f"{lane.who}, {lane.what}" for lane in lanes if lane.sinks == sinks)
            raise BenchError(f"{names}: {got} of {frames} frames arrived")
    return Slices(slices)


def _complete(counted: float, present: float) -> None:
    """Some kernels (CONFIG_IRQ_TIME_ACCOUNTING) keep the time in which a process receives apart
    from its own; what such a kernel shows is the sending alone."""
    if counted < 0.8 * present:
        raise BenchError(
            f"the kernel counts {counted:.1f} s of the {present:.1f} s that the generator was on"
            " its CPU: it keeps interrupts' time apart, or its host gave the CPU to others"
        )


def received(guests: Iterable[Guest]) -> int:
    """Packets that the guests' netdevs have received."""
    names = defaultdict(set)
    for guest in guests:
        if guest.netns:
            names[guest.netns].add(guest.netdev)
    total = 0
    for netns, netdevs in names.items():
        for link in json.loads(run("ip", "-n", netns, "-j", "-s", "link", "show")):
            if link["ifname"] in netdevs:
                total += int(link["stats64"]["rx"]["packets"])
    return total


def process_cpu(pid: int) -> float:
    """CPU time of a process with all its threads, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ksoftirqd(cpu: int) -> str:
    """The process id of the CPU's thread for softirqs."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == f"ksoftirqd/{cpu}":
                return comm.parent.name
        except OSError:
            continue
    raise BenchError(f"there is no ksoftirqd/{cpu}: the bench must run outside of PID namespaces")
