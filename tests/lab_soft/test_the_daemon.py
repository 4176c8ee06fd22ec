"""The daemon on this kernel: it starts with a software NIC, and iplex governs its VFs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.lab_soft.guests import until
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


def pf(daemon: Daemon) -> str:
    return str(json.loads(daemon.main_file.read_text())["pciids"][0]["id"])


def iplex(daemon: Daemon, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("iplex")), "--socket", str(daemon.socket)]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"iplex {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_callback_is_not_spared_as_the_daemon_is_when_memory_runs_out(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Here, since not every host lets root spare a process."""
    wait_until_ready(daemon)
    assert daemon.process
    spared = Path(f"/proc/{daemon.process.pid}/oom_score_adj")
    spared.write_text("-500")
    score, start = tmp_path / "score", tmp_path / "start"
    start.write_text(
        f"#!/bin/sh\ncat /proc/self/oom_score_adj > {score}.new; mv {score}.new {score}\n"
    )
    start.chmod(0o755)
    daemon.write("tenant", {"pciid": pf(daemon), "vfid": 0, "vlans": [7], "start_cb": str(start)})
    iplex(daemon, "add", "tenant")
    until("start_cb", score.exists)
    assert score.read_text() == "0\n"
    until("the daemon to be spared again", lambda: spared.read_text() == "-500\n")
    iplex(daemon, "delete", "tenant")


def test_a_vf_is_added_shown_and_deleted(daemon: Daemon) -> None:
    wait_until_ready(daemon)
    daemon.write("tenant", {"pciid": pf(daemon), "vfid": 1, "vlans": [100], "strip_ctag": True})
    iplex(daemon, "add", "tenant")
    assert "tenant" in iplex(daemon, "show", "all")
    iplex(daemon, "delete", "tenant")
    assert "tenant" not in iplex(daemon, "show", "all")
    assert daemon.stop() == 0
