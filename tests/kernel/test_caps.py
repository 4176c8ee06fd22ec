"""What ``iplex caps`` prints of a real NIC: also what its driver and its device are set to."""

from __future__ import annotations

import ctypes
import fcntl
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
from tests.kernel.modelled_nic import ADDRESS, UPLINK, plain_pf
from tests.kernel.test_modelled_pfs import daemon_on
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.api import views
from vfd.daemon.managed import Managed

FLAGS = {"legacy-rx": False, "vf-vlan-pruning": False, "vf-true-promisc-support": False}


NAMES = b"".join(name.encode().ljust(32, b"\0") for name in FLAGS)
ETHTOOL = {
    0x37: struct.pack("=IIQI", 0x37, 0, 1 << 2, len(FLAGS)),
    0x1B: struct.pack("=III", 0x1B, 1, len(FLAGS)) + NAMES,
    0x27: struct.pack("=II", 0x27, 0),
}
"""What the kernel answers to commands of SIOCETHTOOL, for a driver with these private flags."""


def ioctl(_: object, request: int, ifreq: bytes) -> int:
    """The kernel's side of it."""
    assert request == 0x8946
    netdev, command = struct.unpack("=16sQ16x", ifreq)
    assert netdev.rstrip(b"\0") == UPLINK.encode()
    answer = ETHTOOL[ctypes.c_uint32.from_address(command).value]
    ctypes.memmove(command, answer, len(answer))
    return 0


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
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
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
