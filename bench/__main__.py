"""``python -m bench``: every figure that vfd claims, measured on this machine in one run.

Contestants are measured in turn within each round, so that the machine's own ups and downs fall on
all of them; what is shown are medians over the rounds, and ratios are taken inside a round.
Absolute figures are this machine's; the ratios are what carries over.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contestants import (
    CONTESTANTS,
    BareVeth,
    Bridge,
    Contestant,
    SoftNic,
    SoftNicAccess,
    built,
)
from bench.control import control_figures
from bench.figure import Figure
from bench.kernel import kernel_figures
from bench.traffic import BenchError, Tools, stream, tcp

SIZES = ("60", "imix", "1514")
"""Bytes of a frame without its FCS: 60 is Ethernet's shortest, the 64 B frame of benchmarks."""
TCP = "tcp"
TITLES = {"60": "64 B", "imix": "IMIX", "1514": "1514 B", TCP: "TCP"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure, and for how long."""

    contestants: tuple[type[Contestant], ...] = CONTESTANTS
    sizes: tuple[str, ...] = (*SIZES, TCP)
    rounds: int = 5
    seconds: float = 0.4

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(size for size in self.sizes if size != TCP)


@dataclass
class Results:
    """ns a packet by (contestant, size) or bit/s by (contestant, "tcp"), one value a round."""

    by: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def median(self, name: str, size: str) -> float:
        return statistics.median(self.by[name, size])

    def ratio(self, name: str, size: str, to: str = BareVeth.name) -> float:
        """Cost as a multiple of another's, paired by round. For TCP: of its throughput."""
        return statistics.median(
            mine / its for mine, its in zip(self.by[name, size], self.by[to, size], strict=True)
        )

    def cost(self, name: str, size: str, to: str) -> float:
        """The same, but for TCP, too, smaller is better."""
        ratio = self.ratio(name, size, to)
        return 1 / ratio if size == TCP else ratio

    def has(self, name: str) -> bool:
        return any(who == name for who, _ in self.by)

    def forget(self, name: str) -> None:
        for key in [key for key in self.by if key[0] == name]:
            del self.by[key]


def measure(ports: int, choice: Choice, tools: Tools, say: Console) -> Results:
    """The chosen contestants at one number of ports."""
    results = Results()
    with contextlib.ExitStack() as stack:
        present: list[Contestant] = []
        for kind in choice.contestants:
            try:
                present.append(stack.enter_context(built(kind, ports)))
            except BenchError as error:
                say.print(f"{kind.name} is left out: {error}")
        for contestant in present:  # bridges learn where the guests are
            stream(tools, contestant.guest(1), contestant.guest(0), "60", 0.05,
                   contestant.helper_cpu)  # fmt: skip
            contestant.guest(1).swallow(tools.sink)
        for number in range(choice.rounds):
            say.print(f"{ports} ports: round {number + 1} of {choice.rounds}", style="dim")
            for size in choice.streams:
                for contestant in tuple(present):
                    with _or_left_out(contestant, present, results, say):
                        cost = stream(tools, contestant.guest(0), contestant.guest(1), size,
                                      choice.seconds, contestant.helper_cpu)  # fmt: skip
                        if not cost.packets:
                            raise BenchError(f"no packet of size {size} arrived")
                        results.by[contestant.name, size].append(cost.ns_per_packet)
        if TCP in choice.sizes:
            for contestant in present:
                contestant.guest(1).listen()
            for number in range(choice.rounds):
                say.print(f"{ports} ports: TCP {number + 1} of {choice.rounds}", style="dim")
                for contestant in tuple(present):
                    with _or_left_out(contestant, present, results, say):
                        rate = tcp(
                            contestant.guest(0), contestant.guest(1), max(1.0, choice.seconds)
                        )
                        results.by[contestant.name, TCP].append(rate)
    return results


@contextlib.contextmanager
def _or_left_out(
    contestant: Contestant, present: list[Contestant], results: Results, say: Console
) -> Iterator[None]:
    """A contestant that breaks down is out of the race; the others run on."""
    try:
        yield
    except BenchError as error:
        if contestant.name == BareVeth.name:
            raise  # all are measured against it
        say.print(f"{contestant.name} is left out: {error}")
        present.remove(contestant)
        results.forget(contestant.name)


def data_plane_table(results: dict[int, Results], choice: Choice) -> Table:
    title = "CPU time per packet (ns), and × bare veth"
    if TCP in choice.sizes:
        title += "; TCP in Gbit/s, and × bare veth"
    table = Table(title=title)
    table.add_column("contestant")
    table.add_column("policy")
    table.add_column("ports", justify="right")
    for size in choice.sizes:
        table.add_column(TITLES.get(size, f"{size} B"), justify="right")
    for kind in choice.contestants:
        for ports, result in results.items():
            if not result.has(kind.name):
                continue
            cells = []
            for size in choice.sizes:
                median = result.median(kind.name, size)
                shown = f"{median / 1e9:.2f}" if size == TCP else f"{median:.0f}"
                cells.append(f"{shown}  {result.ratio(kind.name, size):.2f}")
            table.add_row(kind.name, kind.policy, str(ports), *cells)
    return table


def data_plane_figures(results: dict[int, Results]) -> list[Figure]:
    """The bars that the data plane is held to, for each kind of policy."""
    few, many = min(results), max(results)
    figures = []
    for kind in (SoftNic, SoftNicAccess):
        name, what = kind.name, f"{kind.name}, {kind.policy}"
        figures += [
            Figure(f"{what}: IMIX, {ports} ports, CPU per packet", result.ratio(name, "imix"), 1.35,
                   "× bare veth")
            for ports, result in results.items()
        ]  # fmt: skip
        rows = [
            (result.cost(name, size, Bridge.name), size, ports)
            for ports, result in results.items()
            if result.has(Bridge.name)
            for size in (*SIZES, TCP)
        ]
        if rows:
            worst, size, ports = max(rows)
            row = f"{TITLES[size]}, {ports} ports"
            figures.append(Figure(f"{what}: worst row beside a bridge ({row})", worst, 1.0,
                                  "× bridge"))  # fmt: skip
        if few != many:
            growth, size = max(
                (results[many].ratio(name, s) / results[few].ratio(name, s), s) for s in SIZES
            )
            figures.append(Figure(f"{what}: {many} ports beside {few}, worst size ({TITLES[size]})",
                                  growth, 1.10, f"× {few}"))  # fmt: skip
    return figures


def figures_table(figures: list[Figure]) -> Table:
    table = Table(title="Figures and bars")
    for title in ("what", "measured", "bar", ""):
        table.add_column(title, justify="left" if title in ("what", "") else "right")
    for figure in figures:
        table.add_row(figure.what, figure.measured_text, figure.bar_text, figure.verdict)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--ports", default="8,64,256", help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds a stream")
    parser.add_argument("--sizes", default=",".join((*SIZES, TCP)), help="default: %(default)s")
    parser.add_argument("--contestants", help="names, separated by commas (default: all)")
    parser.add_argument("--only", choices=("data", "control", "kernel"), help="one part")
    options = parser.parse_args()
    say = Console(stderr=True)
    show = Console(width=None if sys.stdout.isatty() else 120)
    names = options.contestants.split(",") if options.contestants else None
    choice = Choice(
        tuple(kind for kind in CONTESTANTS if names is None or kind.name in names),
        tuple(options.sizes.split(",")),
        options.rounds,
        options.seconds,
    )
    figures: list[Figure] = []
    try:
        if options.only in (None, "data"):
            results = _data_plane(choice, [int(ports) for ports in options.ports.split(",")], say)
            show.print(data_plane_table(results, choice))
            if choice.contestants == CONTESTANTS and {*SIZES, TCP} <= set(choice.sizes):
                figures += data_plane_figures(results)
        if options.only in (None, "control"):
            figures += control_figures(say)
        if options.only in (None, "kernel"):
            figures += kernel_figures(say)
    except BenchError as error:
        say.print(f"bench: {error}")
        return 1
    if figures:
        show.print(figures_table(figures))
    return 0


def _data_plane(choice: Choice, ports: list[int], say: Console) -> dict[int, Results]:
    with tempfile.TemporaryDirectory(prefix="vfd-bench-") as folder:
        tools = Tools.build(Path(folder))
        return {number: measure(number, choice, tools, say) for number in ports}


if __name__ == "__main__":
    sys.exit(main())
