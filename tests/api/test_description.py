"""The API is what its description says, and the description is what the API is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.harness import Vfd

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src/vfd/api/openapi.json"


def test_the_shipped_description_is_the_generated_one() -> None:
    code = "import openapi; print(openapi.description(), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout == SHIPPED.read_text(), "run: python tools/openapi.py"
    assert made.stderr == ""


@pytest.fixture
def vfd(tmp_path: Path) -> Iterator[Vfd]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces and load BPF programs")
    daemon = Vfd(tmp_path)
    daemon.start()
    yield daemon
    daemon.clean_up()


def test_the_daemon_serves_its_description(vfd: Vfd) -> None:
    assert vfd.get("/v1/openapi.json") == json.loads(SHIPPED.read_text())


def serve_on_loopback(path: Path) -> int:
    """A TCP port on the loopback that leads to the socket: schemathesis speaks only TCP."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(path))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


HOOKS = """
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream that follows has no end, and a fuzzer would wait for it.
    if case.query and "follow" in case.query:
        case.query["follow"] = "false"
"""

SETTINGS = """
[checks.positive_data_acceptance]
# 422: well formed, but the policy is refused, which no schema can say. 503: a PF without NIC.
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "5xx"]
"""


def test_schemathesis_finds_nothing(vfd: Vfd, tmp_path: Path) -> None:
    vfd.add("vm1", vfd.vf(0))
    port = serve_on_loopback(vfd.socket)
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"http://127.0.0.1:{port}/v1/openapi.json",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=15",
        "--request-timeout=10",
        "--seed=7",
        "--suppress-health-check=all",
        "--no-color",
    ]
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert vfd.get("/v1/health")["status"] in ("ok", "degraded")
