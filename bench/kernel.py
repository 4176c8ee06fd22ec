"""The kernel backend's figures, from the laboratory's machine: ``bench/kernel_guest.py``."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.figure import Figure
from bench.traffic import BenchError

CHECKOUT = Path(__file__).resolve().parent.parent
_TIMEOUT = 900
_REPAIR = 2
"""× one ``ip`` that sets a VF."""


def kernel_figures(say: Console) -> list[Figure]:
    """Setting all VFs of a PF beside ``ip``, and repairing drift. Raises BenchError."""
    say.print("booting the laboratory's machine: some minutes under emulation", style="dim")
    machine = ["run", "--igb", "1", "--timeout", str(_TIMEOUT), "--"]
    command = [str(CHECKOUT / "lab/vm"), *machine, ".venv/bin/python", "-m", "bench.kernel_guest"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as guest:  # fmt: skip
        assert guest.stdout is not None
        assert guest.stderr is not None
        rows = []
        for line in guest.stdout:
            if line.startswith("{"):
                rows.append(json.loads(line))
                say.print(f"{rows[-1]['card']}: {rows[-1]['way']}", style="dim")
        said = guest.stderr.read()
    if guest.returncode:
        raise BenchError(f"the laboratory's machine: {said.strip()[-2000:]}")
    return _figures(rows)


def _figures(rows: list[dict[str, Any]]) -> list[Figure]:
    cards: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        cards[row["card"]][row["way"]] = row
    figures = []
    for card, ways in cards.items():
        vfd = ways["vfd"]
        for other in ("ip loop", "ip -batch"):
            its = ways[other]
            figures += [
                Figure(f"{card}, all set and read back: time", vfd["seconds"] / its["seconds"],
                       1.0, f"× {other}", _ms(vfd["seconds"], its["seconds"])),
                Figure(f"{card}: system calls", vfd["calls"] / its["calls"], 1.0,
                       f"× {other}", f"{vfd['calls']} and {its['calls']}"),
            ]  # fmt: skip
        figures += [
            Figure(f"{card}: netlink messages ({_both(ways, 'messages')})",
                   vfd["messages"], None, "messages"),
            Figure(f"{card}: system calls that send them ({_both(ways, 'sends')})",
                   vfd["sends"], None, "calls"),
            Figure(f"{card}: observe", ways["observe"]["seconds"] * 1e3, None, "ms"),
        ]  # fmt: skip
        if "repair" in ways:
            loop = ways["ip loop"]
            mine, its = ways["repair"]["seconds"], loop["seconds"] / loop["vfs"]
            figures.append(
                Figure(f"{card}: from drift to repair by the daemon", mine / its, _REPAIR,
                       "× ip link set", _ms(mine, its))
            )  # fmt: skip
    return figures


def _both(ways: dict[str, dict[str, Any]], what: str) -> str:
    return ", ".join(f"{other} {ways[other][what]}" for other in ("ip loop", "ip -batch"))


def _ms(ours: float, its: float) -> str:
    return f"{ours * 1e3:.0f} and {its * 1e3:.0f} ms"
