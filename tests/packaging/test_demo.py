"""What the README promises of ``make demo`` is what it shows, and nothing of it stays."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def names() -> set[str]:
    """Of the host's network namespaces and netdevs."""
    folders = (Path("/run/netns"), Path("/sys/class/net"))
    return {path.name for folder in folders if folder.exists() for path in folder.iterdir()}


@pytest.mark.root
@pytest.mark.measured
@pytest.mark.timeout(200)
def test_the_demo_shows_what_it_promises_in_three_minutes_and_leaves_nothing() -> None:
    before = names()
    done = subprocess.run(
        [sys.executable, "-m", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    shown = done.stdout
    assert done.returncode == 0, shown[-2000:] + done.stderr[-2000:]
    assert "3 received" in shown
    assert re.search(r"On the wire: .*88a8.*200.*8100.*7", shown), "red's frame is QinQ"
    assert "blue1: 50 spoofed" in shown
    assert "red0: 20 spoofed" in shown
    limited = re.search(r"after: (\d+) Mbit/s", shown)
    assert limited
    assert 150 < int(limited[1]) < 220
    assert re.search(r"demo0v0|demo0:0|blue0", shown.split("The operator's table")[1])
    assert re.search(r"vfd\W+full, untagged", shown.split("What it costs")[1])
    deadline = time.monotonic() + 5  # the kernel takes namespaces apart in its own time
    while (left := names() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def test_a_mac_is_shown_as_it_is() -> None:
    """ ":cd:" is a picture to some."""
    code = "from demo.host import console; console.print('1a:cd:96:ab:e4:cc')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1a:cd:96:ab:e4:cc"
