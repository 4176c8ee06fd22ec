"""The API is what its description says, and the description is what the API is."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.daemon.harness import Vfd

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
import json
import os
import random

import schemathesis
from schemathesis import GenerationMode
from schemathesis.generation.meta import TestPhase

PF = os.environ["PF"]
chance = random.Random(int(os.environ["SEED"]))


@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream that follows has no end, and a fuzzer would wait for it.
    if case.query and "follow" in case.query:
        case.query["follow"] = "false"
    here = case.path_parameters
    if case.operation.label == "DELETE /v1/pfs/{pf}" and here and here.get("pf") == PF:
        here["pf"] = "another"  # without the NIC nothing would be found any more
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    # Once in a while the generator overlooks the pattern of a name, which forbids these.
    for name, value in (here or {}).items():
        if isinstance(value, str) and any(c < " " or c == "\\x7f" for c in value):
            here[name] = "vm0"
    # What is there, half of the time: else all that is ever asked for is not found. Who is called
    # after another has the other's.
    another = case.meta.phase.name is TestPhase.STATEFUL or case.method == "DELETE"
    if here and chance.random() < 0.5 and not another:
        for name, value in (("pf", PF), ("name", f"vm{chance.randrange(4)}")):
            if name in here:
                here[name] = value
        if "vfid" in here:
            here["vfid"] = chance.randrange(5)
    a_vf = isinstance(case.body, dict) and {"file", "config"} & case.body.keys()
    if a_vf and chance.random() < 0.5:
        vfid = chance.randrange(5)
        config = {"pciid": PF, "vfid": vfid, "vlans": [chance.randrange(1, 4095)]}
        config |= chance.choice([{}, {"rate": 0.5}, {"vm_mac": "02:00:00:00:00:07"}, {"mtu": 1}])
        case.body.clear()
        case.body |= {"name": f"vm{vfid}", "config": config}
"""

SETTINGS = """
[checks.not_a_server_error]
# 503: a PF without its NIC, or a disk that is full. Only where the description has it, which
# status_code_conformance holds. 500 is a bug, always.
expected-statuses = ["2xx", "4xx", "503"]

[phases.fuzzing.generation]
# What is malformed is sent by the phase before.
mode = "positive"

[checks.ensure_resource_availability]
# A VF that was added goes again with the number of VFs, which other calls change.
enabled = false

[checks.positive_data_acceptance]
# 422: well formed, but the policy is refused, which no schema can say.
expected-statuses = ["2xx", "403", "404", "409", "422", "503"]
"""


@pytest.mark.timeout(280)
def test_schemathesis_finds_nothing(vfd: Vfd, tmp_path: Path) -> None:
    """Other examples each time; the seed that finds something is in what it prints."""
    for vfid in range(3):
        vfd.add(f"vm{vfid}", vfd.vf(vfid))
    port = serve_on_loopback(vfd.socket)
    seed = str(secrets.randbelow(2**32))
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"http://127.0.0.1:{port}/v1/openapi.json",
        "--phases=examples,coverage,fuzzing,stateful",
        "--max-examples=30",
        "--request-timeout=10",
        f"--seed={seed}",
        "--suppress-health-check=all",
        "--no-color",
    ]
    told = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path), "PF": vfd.pf, "SEED": seed}
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = f"seed {seed}: {found.stdout[-8000:]}{found.stderr[-2000:]}"
    print(said)
    assert found.returncode == 0, said
    assert vfd.get("/v1/health")["status"] in ("ok", "degraded")
