"""A daemon with a software NIC and files of its own, as an operator has it; all gone at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.traffic import BenchError
from vfd.api.client import ApiError, Client
from vfd.nic import soft
from vfd.policy.values import PfPolicy

BIN = Path(sys.executable).parent


class Host:
    """A folder with a configuration, and the daemon that runs on it."""

    def __init__(
        self,
        folder: Path,
        policies: Mapping[str, Mapping[str, Any]],
        *,
        nic: str,
        wrap: Sequence[str] = (),
        **pf: Any,
    ) -> None:
        """``policies``: the VFs' files by name, without ``pciid``. ``pf``: the NIC's settings.
        ``wrap``: what the daemon is started by."""
        self.folder = folder
        self.nic = nic
        self.pf: dict[str, Any] = {"id": nic, "backend": "soft", **pf}
        self.socket = folder / "vfd.sock"
        self.config = folder / "vfd.cfg"
        self.vfs = folder / "vfs"
        self.log = folder / "stderr"
        self.process: subprocess.Popen[bytes] | None = None
        self._wrap = wrap
        self._awaited = ""
        self.vfs.mkdir()
        self.config.write_text(
            json.dumps(
                {
                    "config_dir": str(self.vfs),
                    "log_dir": str(folder),
                    "socket": str(self.socket),
                    "pid_fname": str(folder / "vfd.pid"),
                    "pciids": [self.pf],
                }
            )
        )
        for name, policy in policies.items():
            self._write(name, policy)

    def _write(self, name: str, policy: Mapping[str, Any]) -> None:
        (self.vfs / f"{name}.json").write_text(json.dumps({"pciid": self.nic, **policy}))

    def start(self) -> float:
        """Starts the daemon; seconds from exec until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            where = str(self.folder / "notify")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(where)  # noqa: PTH108
            notify.bind(where)
            notify.settimeout(30)
            began = time.perf_counter()
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    [*self._wrap, str(BIN / "vfd"), "--config", str(self.config)],
                    env={**os.environ, "NOTIFY_SOCKET": where},
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,  # a service has CPU shares of its own
                )
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
            except TimeoutError as error:
                said = self.log.read_text()[-2000:]
                raise BenchError(f"the daemon was not ready in 30 s: {said}") from error
            return time.perf_counter() - began

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def reload(self, name: str, policy: Mapping[str, Any]) -> None:
        """Adds a VF's file and has the daemon read everything again; ``reloaded`` waits for it."""
        self._write(name, policy)
        assert self.process is not None
        self._awaited = name
        self.process.send_signal(signal.SIGHUP)

    def reloaded(self, seconds: float = 60) -> None:
        """Raises BenchError where the file of ``reload`` doesn't come into force."""
        end = time.monotonic() + seconds
        while self._awaited:
            with contextlib.suppress(ApiError):
                Client(str(self.socket)).get(f"/v1/vfs/{self._awaited}")
                self._awaited = ""
                continue
            if time.monotonic() > end:
                raise BenchError(f"{self._awaited}.json was not in force {seconds:g} s later")
            time.sleep(0.1)

    def update(self, name: str, policy: Mapping[str, Any]) -> float:
        """One policy change through the API; seconds from request to answer."""
        client = Client(str(self.socket))
        began = time.perf_counter()
        try:
            client.put(f"/v1/vfs/{name}", {"name": name, "config": {"pciid": self.nic, **policy}})
        except ApiError as error:
            raise BenchError(f"the daemon refused a change: {error}") from error
        return time.perf_counter() - began


@contextlib.contextmanager
def running(
    policies: Mapping[str, Mapping[str, Any]], *, nic: str, wrap: Sequence[str] = (), **pf: Any
) -> Iterator[Host]:
    """A host, its daemon not started yet; the daemon and the NIC are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="vfd-bench-") as folder:
        Path(folder).chmod(0o755)  # so that others may reach the socket, as in /run/vfd
        host = Host(Path(folder), policies, nic=nic, wrap=wrap, **pf)
        try:
            yield host
        finally:
            host.stop()
            soft.destroy(PfPolicy.model_validate(host.pf))
