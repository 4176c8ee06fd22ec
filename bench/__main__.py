"""``python -m bench``: every figure that vfd claims, measured on this machine in one run.

Machines of one kind differ by three and more, so what is claimed is a multiple of something that is
measured in the same run; both are shown. docs/bench.md says how each is measured, and why so.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

from rich.console import Console
from rich.table import Table

from bench.control import control_figures
from bench.datapath import RACES, Choice, datapath, machine, version_of
from bench.figure import Figure
from bench.kernel import kernel_figures
from bench.traffic import BenchError


def figures_table(figures: list[Figure]) -> Table:
    table = Table(title="Figures and bars", caption=machine())
    for title in ("what", "measured", "bar", "", "of"):
        table.add_column(title, justify="right" if title in ("measured", "bar") else "left")
    for figure in figures:
        table.add_row(
            figure.what, figure.measured_text, figure.bar_text, figure.verdict, figure.beside
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=("data", "control", "kernel"), help="one part")
    parser.add_argument("--vfs", default="8,64,256", help="how many (default: %(default)s)")
    parser.add_argument("--races", default=",".join(RACES), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=60, help="of a race (default: %(default)s)")
    parser.add_argument(
        "--against", metavar="REVISION", help="also race vfd as it was at this git revision"
    )
    options = parser.parse_args()
    say = Console(stderr=True)
    show = Console(width=None if sys.stdout.isatty() else 140)
    figures: list[Figure] = []
    try:
        if options.only in (None, "data"):
            with contextlib.ExitStack() as stack:
                also = [stack.enter_context(version_of(r)) for r in [options.against] if r]
                choice = Choice(
                    tuple(int(vfs) for vfs in options.vfs.split(",")),
                    tuple(options.races.split(",")),
                    options.rounds,
                    tuple(also),
                )
                figures += datapath(choice, show, say)
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


if __name__ == "__main__":
    sys.exit(main())
