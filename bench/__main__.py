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
from bench.traffic import BenchError, Tools, stream, tcp

SIZES = ("60", "imix", "1514")


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


def measure(ports: int, rounds: int, seconds: float, tools: Tools, say: Console) -> Results:
    """All contestants at one number of ports."""
    results = Results()
    with contextlib.ExitStack() as stack:
        present: list[Contestant] = []
        for kind in CONTESTANTS:
            try:
                present.append(stack.enter_context(built(kind, ports)))
            except BenchError as error:
                say.print(f"{kind.name} is left out: {error}")
        for contestant in present:  # bridges learn where the guests are
            stream(tools, contestant.guest(1), contestant.guest(0), "60", 0.05,
                   contestant.helper_cpu)  # fmt: skip
            contestant.guest(1).swallow(tools.sink)
        for number in range(rounds):
            say.print(f"{ports} ports: round {number + 1} of {rounds}", style="dim")
            for size in SIZES:
                for contestant in present:
                    cost = stream(tools, contestant.guest(0), contestant.guest(1), size, seconds,
                                  contestant.helper_cpu)  # fmt: skip
                    if not cost.packets:
                        raise BenchError(f"{contestant.name}: no packet of size {size} arrived")
                    results.by[contestant.name, size].append(cost.ns_per_packet)
        for contestant in present:
            contestant.guest(1).listen()
        for _ in range(max(1, rounds // 2)):
            for contestant in present:
                rate = tcp(contestant.guest(0), contestant.guest(1), max(1.0, seconds))
                results.by[contestant.name, "tcp"].append(rate)
    return results


def data_plane_table(results: dict[int, Results]) -> Table:
    table = Table(title="CPU time per packet (ns), and × bare veth; TCP in Gbit/s, and × bare veth")
    table.add_column("contestant")
    table.add_column("policy")
    table.add_column("ports", justify="right")
    for title in ("60 B", "IMIX", "1514 B", "TCP"):
        table.add_column(title, justify="right")
    for kind in CONTESTANTS:
        for ports, result in results.items():
            if (kind.name, "60") not in result.by:
                continue
            cells = [
                f"{result.median(kind.name, size):.0f}  {result.ratio(kind.name, size):.2f}"
                for size in SIZES
            ]
            cells.append(
                f"{result.median(kind.name, 'tcp') / 1e9:.2f}  {result.ratio(kind.name, 'tcp'):.2f}"
            )
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
    parser.add_argument(
        "--ports", default="8,64,256", help="numbers of ports (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds a stream")
    parser.add_argument("--only", choices=("data", "control"), help="one half")
    options = parser.parse_args()
    say = Console(stderr=True)
    show = Console(width=None if sys.stdout.isatty() else 120)
    figures: list[Figure] = []
    try:
        if options.only != "control":
            with tempfile.TemporaryDirectory(prefix="vfd-bench-") as folder:
                tools = Tools.build(Path(folder))
                results = {
                    ports: measure(ports, options.rounds, options.seconds, tools, say)
                    for ports in map(int, options.ports.split(","))
                }
            show.print(data_plane_table(results))
            figures += data_plane_figures(results)
        if options.only != "data":
            figures += control_figures(say)
    except BenchError as error:
        say.print(f"bench: {error}")
        return 1
    show.print(figures_table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
