"""The daemon on this kernel: it starts with a software NIC, and iplex governs its VFs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.life.daemon import Daemon

START = 120
"""Seconds in which a daemon is ready on an emulated machine."""


def wait_until_ready(daemon: Daemon) -> None:
    end = time.monotonic() + START
    while not daemon.is_ready():
        assert daemon.process
        assert daemon.process.poll() is None, daemon.said()
        assert time.monotonic() < end, daemon.said()
        time.sleep(0.2)


def iplex(daemon: Daemon, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("iplex")), "--socket", str(daemon.socket)]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"iplex {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_vf_is_added_shown_and_deleted(daemon: Daemon) -> None:
    wait_until_ready(daemon)
    pf = json.loads(daemon.main_file.read_text())["pciids"][0]["id"]
    daemon.write("tenant", {"pciid": pf, "vfid": 1, "vlans": [100], "strip_ctag": True})
    iplex(daemon, "add", "tenant")
    assert "tenant" in iplex(daemon, "show", "all")
    iplex(daemon, "delete", "tenant")
    assert "tenant" not in iplex(daemon, "show", "all")
    assert daemon.stop() == 0
