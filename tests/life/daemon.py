"""A real vfd process with files of its own, and a client of its socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

START = 60.0
"""Seconds in which a daemon must be ready on a busy machine."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("vfd", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Daemon:
    """One daemon's folder and its process, started and ended as often as the test likes."""

    def __init__(self, folder: Path, pf: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config_dir = folder / "vfs"
        self.config_dir.mkdir(parents=True)
        self.socket = folder / "vfd.sock"
        self.main_file = folder / "vfd.cfg"
        self.output = folder / "output"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self.write_main(pf)

    def write_main(self, pf: Mapping[str, Any]) -> None:
        self.main_file.write_text(
            json.dumps(
                {
                    "log_dir": str(self.folder / "log"),
                    "config_dir": str(self.config_dir),
                    "pid_fname": str(self.folder / "vfd.pid"),
                    "stats_path": str(self.folder / "stats"),
                    "socket": str(self.socket),
                    "pciids": [dict(pf)],
                }
            )
        )

    def write(self, name: str, config: Mapping[str, Any] | str) -> Path:
        """Puts a VF's file into config_dir, as an orchestrator would before ``add``."""
        path = self.config_dir / f"{name}.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return path

    def spawn(self) -> None:
        """Starts the process without waiting for it."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vfd.main", "--config", str(self.main_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | self.environment,
            )

    def start(self) -> None:
        """Starts the process and waits until it says that it is ready."""
        self.spawn()
        assert self.process
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"vfd ended with {self.process.returncode}:\n{self.said()[-4000:]}"
                )
            if self.is_ready():
                return
            time.sleep(0.02)
        raise AssertionError(f"vfd was not ready after {START} s:\n{self.said()[-4000:]}")

    def is_ready(self) -> bool:
        try:
            status, answer = self.ask("GET", "/v1/ready", timeout=2)
        except OSError:
            return False
        return status == 200 and bool(answer["ready"])

    def refuses_to_start(self, timeout: float = START) -> tuple[int, str]:
        """Starts a process that must end by itself; returns its exit status and what it said."""
        said = len(self.said())
        self.spawn()
        assert self.process
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"vfd went on:\n{self.said()[said:]}") from None
        self.process = None
        return status, self.said()[said:]

    def stop(self) -> int:
        """Ends the process as systemd does; returns its exit status."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        finally:
            self.process = None

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def ask(
        self, method: str, path: str, body: object = None, timeout: float = 10
    ) -> tuple[int, Any]:
        """A request; (status, answer). Raises OSError while no daemon listens."""
        connection = _Connection(self.socket, timeout)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(
                method, path, payload, {"Content-Type": "application/json"} if payload else {}
            )
            response = connection.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else None
        except http.client.HTTPException as error:
            raise ConnectionError(f"the daemon broke off: {error!r}") from error
        finally:
            connection.close()

    def must(self, method: str, path: str, body: object = None) -> Any:
        """A request that must succeed; its answer."""
        status, answer = self.ask(method, path, body)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def vf(self, name: str) -> str:
        """The path of a VF in the API."""
        return f"/v1/vfs/{quote(name, safe='/')}"
