"""What a frame costs on its way through: races of all contestants, their tables, and the bars."""

from __future__ import annotations

import contextlib
import errno
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contestants import (
    CLSACT,
    TCX,
    THIS,
    BareVeth,
    Bridge,
    BridgeNft,
    Contestant,
    Floor,
    Generator,
    SoftNic,
    Version,
)
from bench.figure import Figure
from bench.ratios import Slices
from bench.traffic import RTT, TCP, Lane, Tools, race, run
from vfd.nic.soft.libbpf import BpfError

IMIX, SHORT, FLOWS = "imix", "60", "flows"
RACES = (IMIX, SHORT, FLOWS, TCP, RTT)
TITLES = {
    IMIX: "IMIX: CPU time, ns a frame",
    SHORT: "64 B: CPU time, ns a frame",
    FLOWS: "Other flows, IMIX: CPU time, ns a frame",
    TCP: "TCP, writer and reader on one CPU: CPU time, ns a KiB",
    RTT: "Round trip of 32 B by UDP: ns, p50 and p99",
}
WIRED = 64
"""VFs of the NIC that shows other flows."""
SLOWER = 1.10
"""At most this much more does a frame cost among the most VFs than among the fewest."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure."""

    vfs: tuple[int, ...] = (8, 64, 256)
    races: tuple[str, ...] = RACES
    rounds: int = 60
    also: tuple[Version, ...] = ()
    """Other versions of vfd, in the same races."""


@dataclass(frozen=True, slots=True)
class Result:
    """A race that is over."""

    kind: str
    lanes: tuple[Lane, ...]
    slices: Slices[Lane]

    @property
    def bare(self) -> Lane:
        return next(lane for lane in self.lanes if lane.who == BareVeth.name)

    @property
    def generator(self) -> Lane | None:
        return next((lane for lane in self.lanes if lane.who == Generator.name), None)

    def floor(self, lane: Lane) -> Lane:
        """The empty program on the same hook, delivering in the same way."""
        like = (lane.hook or CLSACT, lane.peer)
        return next(f for f in self.lanes if f.who == Floor.name and (f.hook, f.peer) == like)


def datapath(choice: Choice, show: Console, say: Console) -> list[Figure]:
    """Runs the races and shows their tables. Raises BenchError."""
    results = {}
    with tempfile.TemporaryDirectory(prefix="vfd-bench-") as folder:
        tools = Tools.build(Path(folder))
        for result in _races(choice, tools, say):
            show.print(table_of(result))
            results[result.kind] = result
    return figures(results)


def _races(choice: Choice, tools: Tools, say: Console) -> Iterator[Result]:
    def one(kind: str, lanes: Sequence[Lane]) -> Result:
        say.print(f"{TITLES[kind].partition(':')[0]}: {len(lanes)} lanes", style="dim")
        size = IMIX if kind == FLOWS else kind
        return Result(kind, tuple(lanes), race(tools, size, lanes, choice.rounds))

    with contextlib.ExitStack() as stack:
        say.print("building the contestants", style="dim")
        yard = [stack.enter_context(Generator()), stack.enter_context(BareVeth())]
        yard += _floors(tools, stack, peer=True)
        switches = []
        for vfs in choice.vfs:
            switches += [stack.enter_context(kind(vfs)) for kind in (Bridge, BridgeNft)]
        for vlan in (False, True):
            for vfs in choice.vfs:
                for version in (*choice.also, THIS):
                    switches += _soft_nics(stack, vfs, version, vlan=vlan)
        everybody = [*yard, *switches]
        for each in everybody:
            if each.name != Generator.name:
                each.swallow(tools.sink)
        for kind in (IMIX, SHORT):
            if kind in choice.races:
                yield one(kind, [each.lane() for each in everybody])
        if FLOWS in choice.races:
            with contextlib.ExitStack() as wired:
                others = _floors(tools, wired, peer=False)
                for each in others:
                    each.swallow(tools.sink)
                lanes = [each.lane() for each in (*yard, *others)]
                for version in (*choice.also, THIS):
                    for nic in _soft_nics(wired, WIRED, version, wired=True):
                        nic.swallow(tools.sink)
                        nic.swallow(tools.sink, netns=f"{nic.prefix}park")
                        nic.swallow(tools.sink, netns=f"{nic.prefix}w")
                        lanes += nic.flows()
                yield one(FLOWS, lanes)
        few = [each for each in everybody[1:] if each.vfs in (None, min(choice.vfs))]
        for each in few:
            each.swallow(tools.sink, stop=True)
        for kind in (TCP, RTT):
            if kind in choice.races:
                yield one(kind, [each.lane() for each in few])


def _floors(tools: Tools, stack: contextlib.ExitStack, *, peer: bool) -> list[Contestant]:
    """On each hook that the kernel has."""
    found: list[Contestant] = [stack.enter_context(Floor(tools, CLSACT, peer=peer))]
    try:
        found.append(stack.enter_context(Floor(tools, TCX, peer=peer)))
    except BpfError as error:
        if error.errno != errno.EINVAL:
            raise
    return found


def _soft_nics(
    stack: contextlib.ExitStack, vfs: int, version: Version, *, vlan: bool = False,
    wired: bool = False,
) -> list[SoftNic]:  # fmt: skip
    """As it comes, and where that has TCX also without."""
    found = [SoftNic(vfs, version, vlan=vlan, wired=wired)]
    stack.enter_context(found[0])
    if found[0].hook == TCX:
        found.append(SoftNic(vfs, version, vlan=vlan, wired=wired, clsact=True))
        stack.enter_context(found[1])
    return found


def table_of(result: Result) -> Table:
    slices = result.slices
    table = Table(title=TITLES[result.kind], caption=machine())
    for title in ("", "policy or flow", "VFs", "hook", "", "× bare veth", "quartiles",
                  "net of generator", "× floor"):  # fmt: skip
        table.add_column(title, justify="left" if title in ("policy or flow", "hook") else "right")
    for lane in result.lanes:
        bare = slices.ratio(lane, result.bare)
        net = "–"
        if result.generator and lane is not result.generator:
            net = f"{slices.ratio(lane, result.bare, less=result.generator).median:.2f}"
        shown = f"{slices.median(lane):.0f}"
        if result.kind == RTT:
            shown += f" {slices.percentile(lane, 99):.0f}"
        table.add_row(
            lane.who, lane.what, str(lane.vfs or ""), lane.hook, shown, f"{bare.median:.3f}",
            f"{bare.low:.3f}–{bare.high:.3f}", net,
            f"{slices.ratio(lane, result.floor(lane)).median:.2f}",
        )  # fmt: skip
    return table


def machine() -> str:
    """What the figures are of."""
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return f"Linux {platform.release()}, {names[0] if names else platform.machine()}"


def figures(results: dict[str, Result]) -> list[Figure]:
    """The bars that the data plane is held to: those of this version, as the kernel runs it; and
    the one for kernels without TCX."""
    found = []
    for kind, result in results.items():
        ours = [lane for lane in result.lanes if lane.who == THIS.name]
        if kind in (IMIX, SHORT):
            found += [_bar(result, lane) for lane in ours]
            found += _growth(result, ours)
        if kind != FLOWS:
            found += _worst_beside_bridge(result, ours)
    return found


BARS = {
    (IMIX, "full, untagged", TCX): 1.15,
    (IMIX, "full, untagged", CLSACT): 1.19,
    (IMIX, "full, access VLAN", TCX): 1.18,
    (IMIX, "full, access VLAN", CLSACT): 1.18,
    (SHORT, "full, untagged", TCX): 1.2,
    (SHORT, "full, untagged", CLSACT): 1.2,
    (SHORT, "full, access VLAN", TCX): 1.2,
    (SHORT, "full, access VLAN", CLSACT): 1.2,
}
"""× bare veth."""


def _bar(result: Result, lane: Lane) -> Figure:
    return _figure(
        result, f"{lane.what}, {lane.vfs} VFs, {lane.hook}", lane, result.bare,
        BARS[result.kind, lane.what, lane.hook], BareVeth.name,
    )  # fmt: skip


def _figure(result: Result, what: str, lane: Lane, to: Lane, bar: float, name: str) -> Figure:
    """``lane`` beside ``to``, which is called ``name``."""
    slices = result.slices
    ratio = slices.ratio(lane, to)
    both = f"{slices.median(lane):.0f} and {slices.median(to):.0f} ns"
    what = f"{_short(result)}, {what}"
    return Figure(what, ratio.median, bar, f"× {name}", both, ratio.tells(bar))


def _growth(result: Result, ours: list[Lane]) -> Iterator[Figure]:
    """Among the most VFs beside the fewest, the worst policy and hook."""
    few, many = min(lane.vfs or 0 for lane in ours), max(lane.vfs or 0 for lane in ours)
    if few == many:
        return
    least = {(lane.what, lane.hook): lane for lane in ours if lane.vfs == few}
    most = [lane for lane in ours if lane.vfs == many]
    lane = max(most, key=lambda o: result.slices.ratio(o, least[o.what, o.hook]).median)
    what = f"worst of {many} VFs ({lane.what}, {lane.hook})"
    yield _figure(result, what, lane, least[lane.what, lane.hook], SLOWER, f"{few} VFs")


def _worst_beside_bridge(result: Result, ours: list[Lane]) -> Iterator[Figure]:
    bridges = {lane.vfs: lane for lane in result.lanes if lane.who == Bridge.name}
    lane = max(ours, key=lambda o: result.slices.ratio(o, bridges[o.vfs]).median)
    what = f"worst row ({lane.what}, {lane.vfs} VFs, {lane.hook})"
    yield _figure(result, what, lane, bridges[lane.vfs], 1.0, Bridge.name)


def _short(result: Result) -> str:
    return TITLES[result.kind].partition(":")[0].partition(",")[0]


@contextlib.contextmanager
def version_of(revision: str) -> Iterator[Version]:
    """vfd as it was at a revision, with its BPF program compiled. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="vfd-bench-") as folder:
        root = Path(folder)
        short = run("git", "-C", str(THIS.root), "rev-parse", "--short", revision).strip()
        archive = root / "tree.tar"
        run("git", "-C", str(THIS.root), "archive", "-o", str(archive), revision, "src", "tools")
        run("tar", "-C", folder, "-xf", str(archive))
        run(sys.executable, str(root / "tools/compile_bpf.py"))
        yield Version(f"vfd {short}", root)
