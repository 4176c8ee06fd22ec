"""Vendors' models mounted for tests: where they are, what was written to them, what they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vfd.nic.kernel.surface import TAGGING, Assignment, Shown, Surface
from vfd.nic.protocol import Capability, Support
from vfd.policy.values import VfRules

START = 30.0
"""Seconds that a model may take to start on a busy machine."""


@dataclass(frozen=True, slots=True)
class Modelled:
    """A mounted model."""

    root: Path

    def log(self) -> list[tuple[str, str, int]]:
        """Every write so far: path, text, errno."""
        return [tuple(json.loads(line)) for line in self._control("log").splitlines()]

    def state(self) -> Any:
        return json.loads(self._control("state"))

    def vf(self, vfid: int) -> Any:
        return self.state()["vfs"][vfid]

    def act(self, name: str, text: str) -> None:
        """Something that happens beside the interface; ``fail``: a fault to come."""
        (self.root / ".model" / name).write_text(text)

    def text(self, path: str) -> str:
        return (self.root / path).read_text().strip()

    def _control(self, name: str) -> str:
        return (self.root / ".model" / name).read_text()


@contextmanager
def modelled(vendor: str, *options: str, vfs: int = 4) -> Iterator[Modelled]:
    """A model in a process of its own, mounted in a folder of its own."""
    with mounted("lab.models", vendor, f"--vfs={vfs}", *options) as folder:
        yield Modelled(folder)


@contextmanager
def mounted(module: str, *arguments: str) -> Iterator[Path]:
    """A file system that a module serves in a process of its own until its standard input ends,
    mounted in a folder of its own, which is its last argument."""
    if not Path("/dev/fuse").exists() or os.geteuid():
        pytest.skip("a file system of our own needs /dev/fuse and root to mount it")
    folder = Path(tempfile.mkdtemp(prefix="vfd-model-"))
    command = [sys.executable, "-m", module, *arguments, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
        try:
            deadline = time.monotonic() + START
            while not folder.is_mount():
                assert server.poll() is None, f"{module} ended at once"
                assert time.monotonic() < deadline, f"{module} was not mounted in time"
                time.sleep(0.05)
            yield folder
        finally:
            assert server.stdin
            server.stdin.close()
            server.wait(timeout=60)
            folder.rmdir()


def part(surface: Surface, rules: VfRules) -> Assignment:
    """What of these rules the surface would be given if it were the only one."""
    short = surface.shortfalls(rules)
    return Assignment(rules, frozenset(surface.capabilities().keys() - short.keys()))


class PortVlan:
    """The part of rtnetlink that matters to a vendor's trunk, on its model: one VLAN that the NIC
    inserts and strips. ``key``: where the model's state has it."""

    name = "port-vlan"

    def __init__(self, model: Modelled, key: str) -> None:
        self._model = model
        self._key = key

    def look(self) -> None:
        pass

    def capabilities(self) -> Mapping[str, Capability]:
        return dict.fromkeys(TAGGING, Capability(Support.LIMITED, by=self.name))

    def shortfalls(self, rules: VfRules) -> Mapping[str, Capability]:
        return {} if rules.access_vid else dict.fromkeys(TAGGING, Capability(Support.ABSENT))

    def express(self, assigned: Assignment) -> Shown:
        raise NotImplementedError

    def read(self) -> Mapping[int, Shown]:
        raise NotImplementedError

    def write(self, wanted: Mapping[int, Assignment]) -> None:
        for vfid, assigned in wanted.items():
            mine = assigned.rules if "vlans" in assigned.attributes else None
            vid = mine.access_vid if mine else 0
            if vid != self._model.vf(vfid)[self._key]:
                self._model.act("port_vlan", f"{vfid} {vid}")


CLOSED = Assignment(None, frozenset())
