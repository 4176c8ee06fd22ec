"""A real ``vfd`` process with soft NICs of its own, for tests that look at it from outside."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vfd.daemon.exclusive import LOCKS
from vfd.nic.soft import destroy
from vfd.policy.values import PfPolicy


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("vfd", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Vfd:
    """One daemon with its own folder, socket and soft NIC, on this machine beside all others."""

    def __init__(self, folder: Path, *, vfs: int = 4, **main: Any) -> None:
        self.folder = folder
        self.pf = f"t{secrets.token_hex(3)}"
        self.config_dir = folder / "vfs"
        self.config_dir.mkdir()
        self.socket = folder / "s"
        self.log = folder / "out"
        self.config = folder / "vfd.cfg"
        self.process: subprocess.Popen[bytes] | None = None
        self.patience = 20.0
        """Seconds for which an answer is waited for."""
        self.wrap: tuple[str, ...] = ()
        """A command that ends in becoming the daemon."""
        self.program: tuple[str, ...] = ("-m", "vfd.main")
        self.main: dict[str, Any] = {
            "config_dir": str(self.config_dir),
            "log_dir": str(folder / "log"),
            "pid_fname": str(folder / "pid"),
            "socket": str(self.socket),
            "pciids": [{"id": self.pf, "backend": "soft", "vfs": vfs}],
            **main,
        }
        self.write_main()

    def write_main(self) -> None:
        self.config.write_text(json.dumps(self.main))

    def vf(self, vfid: int, **fields: Any) -> dict[str, Any]:
        """A VF's configuration on this daemon's NIC."""
        return {"pciid": self.pf, "vfid": vfid, "vlans": [100 + vfid], **fields}

    def put_file(self, name: str, config: Mapping[str, Any] | str | bytes) -> Path:
        path = self.config_dir / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(config, bytes):
            path.write_bytes(config)
        else:
            path.write_text(config if isinstance(config, str) else json.dumps(config))
        return path

    # The process

    def look_every(self, seconds: float) -> None:
        """Has it look after itself and its NICs oftener than every 30 s, from the next start."""
        change = f"from vfd.daemon import runner; runner.LOOK = {seconds}"
        self.program = ("-c", f"{change}; from vfd.main import main; main()")

    def spawn(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrap, sys.executable, *self.program, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        return self.process

    def start(self, timeout: float = 20, **environment: str) -> float:
        """Starts it and waits until it says READY. Returns the seconds from exec to there."""
        with self.notified(0.1) as notify:
            began = time.perf_counter()
            process = self.spawn(NOTIFY_SOCKET=notify.getsockname(), **environment)
            while time.perf_counter() - began < timeout:
                with suppress(TimeoutError):
                    if b"READY=1" in notify.recv(4096):
                        return time.perf_counter() - began
                if process.poll() is not None:
                    break
        raise AssertionError(f"vfd is not ready: {self.output()}")

    @contextmanager
    def notified(self, timeout: float) -> Iterator[socket.socket]:
        """What it tells systemd."""
        address = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            address.unlink(missing_ok=True)
            notify.bind(str(address))
            notify.settimeout(timeout)
            yield notify

    def looks(self) -> None:
        """Waits until it has looked after itself once, from the beginning to the end; and what was
        begun before has ended."""
        with self.notified(20) as notify:
            for _ in range(2):
                while not notify.recv(4096).startswith(b"STATUS="):
                    pass

    def reload(self) -> None:
        """SIGHUP, until all has been read."""
        before = len(self.events("reloaded"))
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(self.events("reloaded")) > before)

    def stop(self, sig: int = signal.SIGTERM) -> float:
        """Ends it. Returns the seconds that took."""
        assert self.process is not None
        began = time.perf_counter()
        self.process.send_signal(sig)
        self.process.wait(10)
        return time.perf_counter() - began

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for pf in self.main["pciids"]:
            destroy(PfPolicy.model_validate(pf))
        (LOCKS / f"{self.pf}.lock").unlink(missing_ok=True)

    # The API

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return self.ask_text(method, path, None if body is None else json.dumps(body))

    def ask_text(
        self, method: str, path: str, text: str | None, kind: str = "application/json"
    ) -> tuple[int, Any]:
        connection = _Connection(self.socket, self.patience)
        try:
            connection.request(method, path, text, {"content-type": kind})
            response = connection.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else None
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, answer = self.ask("GET", path)
        assert status == 200, answer
        return answer

    def add(self, name: str, config: Mapping[str, Any]) -> tuple[int, Any]:
        return self.ask("POST", "/v1/vfs", {"name": name, "config": dict(config)})

    def row(self, vfid: int) -> dict[str, Any]:
        """The VF's line of ``show extended``."""
        rows = self.get(f"/v1/show?vf={vfid}&extended=true")["rows"]
        assert len(rows) == 1
        found: dict[str, Any] = rows[0]
        return found

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = self.get("/v1/events")["events"]
        return [e for e in found if kind in (None, e["kind"])]


def wait_for(condition: Any, timeout: float = 5) -> Any:
    """The first true value of ``condition()``, or AssertionError."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{condition} stayed false for {timeout} s")


async def holds(condition: Callable[[], object]) -> None:
    """Waits until it does, while the daemon goes on in this loop."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
