"""What ``iplex caps`` prints of a real NIC: also what its driver and its device are set to."""

from __future__ import annotations

import json
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.kernel.modelled_nic import ADDRESS, plain_pf
from tests.kernel.test_modelled_pfs import daemon_on
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.api import views
from vfd.daemon.managed import Managed

FLAGS = {"legacy-rx": False, "vf-vlan-pruning": False, "vf-true-promisc-support": False}


def ethtool(_: int, request: bytes) -> bytes:
    """The kernel's side of SIOCETHTOOL, for a driver with these private flags."""
    names = b"".join(name.encode().ljust(32, b"\0") for name in FLAGS)
    match int.from_bytes(request[:4], "little"):
        case 0x37:
            return struct.pack("=IIQI", 0x37, 0, 1 << 2, len(FLAGS))
        case 0x1B:
            return request[:12] + names
        case 0x27:
            return struct.pack("=II", 0x27, 0)
    raise OSError(95, "Operation not supported")


@contextmanager
def answering(managed: Managed, folder: Path) -> Iterator[Path]:
    """A socket that tells what the daemon's API does of the PF."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = views.caps(managed).model_dump_json().encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "iplex"

        def log_message(self, *_: object) -> None:
            pass

    path = folder / "vfd.sock"
    with socketserver.UnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()


def iplex(socket: Path, *words: str) -> str:
    command = [str(Path(sys.executable).with_name("iplex")), "--socket", str(socket), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize(
    "params", [{}, {"max_macs": 16, "local_forwarding": "disabled"}], ids=["no devlink", "devlink"]
)
def test_iplex_caps_shows_private_flags_and_parameters_of_devlink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: Mapping[str, object]
) -> None:
    monkeypatch.setattr("vfd.nic.kernel.legacy._ethtool", ethtool)
    monkeypatch.setattr("vfd.nic.kernel.pf.params", lambda *_: params)
    with (
        plain_pf("ice", PlainVfs([VfSeen()])) as device,
        daemon_on(device, tmp_path, monkeypatch) as (_, managed),
        answering(managed, tmp_path) as socket,
    ):
        said = iplex(socket, "caps", ADDRESS)
        shown = {
            each["attribute"]: each
            for each in json.loads(iplex(socket, "--json", "caps", ADDRESS))["device"]
        }
    [pruning] = [line for line in said.splitlines() if "vf-vlan-pruning" in line]
    assert "receives every VLAN" in pruning
    assert shown["vf-vlan-pruning"]["support"] == "absent"
    [promisc] = [line for line in said.splitlines() if "vf-true-promisc-support" in line]
    assert "yes" in promisc
    assert "legacy-rx" not in said
    assert ("16 unicast MACs" in said) == ("max_macs" in shown) == bool(params)
    assert ("do not reach each other" in said) == ("local_forwarding" in shown) == bool(params)
