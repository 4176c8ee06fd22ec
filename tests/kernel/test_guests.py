"""Who has a device node open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vfd.nic.kernel.guests import openers_of


def test_all_nodes_are_found_in_one_pass_with_every_process_that_has_them_open(
    tmp_path: Path,
) -> None:
    nodes = [tmp_path / name for name in ("12", "13", "14")]
    for node in nodes:
        node.touch()
    code = "import sys; files = [open(p) for p in sys.argv[1:]]; print(flush=True); input()"
    command = [sys.executable, "-c", code, *map(str, nodes[:2])]
    with (
        nodes[1].open(),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        assert other.stdout
        other.stdout.readline()
        found = openers_of({str(node) for node in nodes})
        other.communicate(b"\n")
    mine, its = f"[{os.getpid()}]", f"[{other.pid}]"
    assert {
        Path(node).name: {who[who.index("[") :] for who in whom} for node, whom in found.items()
    } == {
        "12": {its},
        "13": {mine, its},
    }
