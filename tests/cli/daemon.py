"""A real vfd with a software NIC of its own, for as long as a module's tests run."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from vfd.api.client import ApiError, Client, NoDaemonError
from vfd.nic.soft import destroy, namespace
from vfd.policy.values import PfPolicy

START = 60.0
"""Seconds in which a daemon must be ready on a busy machine."""


class Daemon:
    """Its folder, its process and a namespace that holds guests."""

    def __init__(
        self,
        folder: Path,
        vfs: int,
        main: Mapping[str, Any] | None = None,
        pf: Mapping[str, Any] | None = None,
        before: Callable[[Daemon], None] | None = None,
    ) -> None:
        """``before`` is called when all but the daemon is there."""
        self.pf = f"c{secrets.token_hex(2)}"
        self.vfs = vfs
        self.guests = f"cli-{self.pf}"
        self.config_dir = folder / "vfs"
        self.config_dir.mkdir()
        self.socket = folder / "vfd.sock"
        self.conf = folder / "vfd.cfg"
        self.output = folder / "output"
        self.conf.write_text(
            json.dumps(
                {
                    "log_dir": str(folder / "log"),
                    "config_dir": str(self.config_dir),
                    "pid_fname": str(folder / "vfd.pid"),
                    "stats_path": str(folder / "stats"),
                    "socket": str(self.socket),
                    "pciids": [{"id": self.pf, "backend": "soft", "vfs": vfs, **(pf or {})}],
                    **(main or {}),
                }
            )
        )
        ip("netns", "add", self.guests)
        if before is not None:
            before(self)
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("vfd"), "--config", self.conf],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_until_ready(self) -> None:
        client = Client(str(self.socket), timeout=5)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if client.get("/v1/ready")["ready"]:
                    state = client.get("/v1/health")["pfs"][0]
                    assert state["state"] == "ok", state
                    return
            except (ApiError, NoDaemonError):
                pass
            time.sleep(0.05)
        raise AssertionError(f"vfd is not ready:\n{self.output.read_text()[-4000:]}")

    def empty(self) -> None:
        """Takes away what a test left: no VF has a file or a guest then, and all are there."""
        client = Client(str(self.socket))
        known = client.get("/v1/vfs")
        names = {one["name"] for one in known["vfs"]}
        for path in (Path(bad["file"]) for bad in known["bad_files"]):
            if path.is_relative_to(self.config_dir):  # the main file is told of, too
                names.add(str(path.relative_to(self.config_dir).with_suffix("")))
        for name in names:
            client.delete(f"/v1/vfs/{name}")
        for path in self.config_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._is_with_guests() or client.get(f"/v1/pfs/{self.pf}")["vfs"] != self.vfs:
            for vfs in (0, self.vfs):
                client.patch(f"/v1/pfs/{self.pf}", {"vfs": vfs, "force": True})

    def _is_with_guests(self) -> bool:
        """Whether a guest has one of the VFs."""
        with namespace.inside(self.guests):
            return any(name.startswith(self.pf) for _, name in socket.if_nameindex())

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run(["ip", "netns", "delete", self.guests], check=False)
        destroy(PfPolicy(id=self.pf))

    def vf(self, vfid: int, **more: Any) -> dict[str, Any]:
        """A VF's configuration."""
        return {"pciid": self.pf, "vfid": vfid, "vlans": [100 + vfid]} | more

    def write(self, name: str, config: Mapping[str, Any]) -> Path:
        """Puts a VF's file into config_dir, as Nova's plug does before ``add``."""
        path = self.config_dir / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config))
        return path

    def give_to_guest(self, vfid: int) -> str:
        """Moves the VF into the guests' namespace; its netdev's name there."""
        netdev = f"{self.pf}v{vfid}"
        ip("link", "set", netdev, "netns", self.guests)
        ip("-n", self.guests, "link", "set", netdev, "up")
        return netdev

    def send(self, netdev: str, frame: bytes) -> None:
        """Has the guest that holds ``netdev`` send a frame."""
        program = (
            "import socket, sys;"
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((sys.argv[1], 0));"
            "s.send(bytes.fromhex(sys.argv[2]))"
        )
        ip("netns", "exec", self.guests, sys.executable, "-c", program, netdev, frame.hex())


@contextlib.contextmanager
def running(
    folder: Path,
    vfs: int,
    main: Mapping[str, Any] | None = None,
    pf: Mapping[str, Any] | None = None,
    before: Callable[[Daemon], None] | None = None,
) -> Iterator[Daemon]:
    """A daemon that is ready, and gone at the end. Skips the test that wants it without root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, BPF")
    daemon = Daemon(folder, vfs, main, pf, before)
    try:
        daemon.wait_until_ready()
        yield daemon
    finally:
        daemon.close()


def ip(*arguments: str | Path) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=True, timeout=30)
