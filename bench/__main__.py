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
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.contestants import CONTESTANTS, BareVeth, Bridge, Contestant, SoftNic, built
from bench.control import control_figures
from bench.figure import Figure
from bench.kernel import kernel_figures
from bench.traffic import BenchError, Tools, stream, tcp

SIZES = ("60", "imix", "1514")
TCP = "tcp"


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
                for contestant in present:
                    cost = stream(tools, contestant.guest(0), contestant.guest(1), size,
                                  choice.seconds, contestant.helper_cpu)  # fmt: skip
                    if not cost.packets:
                        raise BenchError(f"{contestant.name}: no packet of size {size} arrived")
                    results.by[contestant.name, size].append(cost.ns_per_packet)
        if TCP in choice.sizes:
            for contestant in present:
                contestant.guest(1).listen()
            for _ in range(max(1, choice.rounds // 2)):
                for contestant in present:
                    rate = tcp(contestant.guest(0), contestant.guest(1), max(1.0, choice.seconds))
                    results.by[contestant.name, TCP].append(rate)
    return results


def data_plane_table(results: dict[int, Results], choice: Choice) -> Table:
    title = "CPU time per packet (ns), and × bare veth"
    if TCP in choice.sizes:
        title += "; TCP in Gbit/s, and × bare veth"
    table = Table(title=title)
    table.add_column("contestant")
    table.add_column("policy")
    table.add_column("ports", justify="right")
    for size in choice.sizes:
        table.add_column(size if size in ("tcp", "imix") else f"{size} B", justify="right")
    for kind in choice.contestants:
        for ports, result in results.items():
            if (kind.name, choice.sizes[0]) not in result.by:
                continue
            cells = []
            for size in choice.sizes:
                median = result.median(kind.name, size)
                shown = f"{median / 1e9:.2f}" if size == TCP else f"{median:.0f}"
                cells.append(f"{shown}  {result.ratio(kind.name, size):.2f}")
            table.add_row(kind.name, kind.policy, str(ports), *cells)
    return table


def data_plane_figures(results: dict[int, Results]) -> list[Figure]:
    """The bars that the data plane is held to."""
    name = SoftNic.name
    figures = [
        Figure(
            f"soft NIC, full policy, IMIX, {ports} ports: CPU per packet",
            result.ratio(name, "imix"),
            1.35,
            "× bare veth",
        )
        for ports, result in results.items()
    ]
    rows = [
        (size, ports, result.ratio(name, size, Bridge.name))
        for ports, result in results.items()
        for size in SIZES
    ]
    size, ports, worst = max(rows, key=lambda row: row[2])
    figures.append(
        Figure(
            f"CPU per packet beside a bridge, worst row ({size} B, {ports} ports)",
            worst,
            1.0,
            "× bridge",
        )
    )
    few, many = min(results), max(results)
    if few != many:
        growth = results[many].ratio(name, "imix") / results[few].ratio(name, "imix")
        figures.append(Figure(f"IMIX at {many} ports beside {few}", growth, 1.10, f"× {few}"))
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
            if choice.contestants == CONTESTANTS and set(SIZES) <= set(choice.sizes):
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
