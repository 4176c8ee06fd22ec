"""Daemons for tests: each with a soft NIC of its own, removed afterwards."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from vfd.config.main_file import parse_main
from vfd.daemon.exclusive import LOCKS
from vfd.daemon.files import Files
from vfd.daemon.journal import Journal
from vfd.daemon.service import Service
from vfd.daemon.zero import Zero
from vfd.nic.soft import namespace
from vfd.policy.values import PfPolicy

from .harness import Vfd, run, wait_for
from .plain_nic import PlainNic


@pytest.fixture
def make_vfd(tmp_path: Path) -> Iterator[Callable[..., Vfd]]:
    """Makes daemons that aren't started yet."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces and load BPF programs")
    made: list[Vfd] = []

    def make(**main: Any) -> Vfd:
        folder = tmp_path / f"d{len(made)}"
        folder.mkdir()
        made.append(Vfd(folder, **main))
        return made[-1]

    yield make
    for vfd in made:
        vfd.clean_up()


@pytest.fixture
def vfd(make_vfd: Callable[..., Vfd]) -> Vfd:
    """A daemon with 4 VFs, running."""
    daemon = make_vfd()
    daemon.start()
    return daemon


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The daemon's service in this process, with a plain NIC for its PF."""
    with served(tmp_path, f"t{secrets.token_hex(3)}", PlainNic, monkeypatch) as made:
        yield made


@contextmanager
def served(
    folder: Path,
    pf: str,
    opened: Callable[[PfPolicy], PlainNic],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Service]:
    """The daemon's service with one PF, and the files that are in ``folder``/vfs."""
    config_dir = folder / "vfs"
    config_dir.mkdir(exist_ok=True)
    main_file = folder / "vfd.cfg"
    main_file.write_text(json.dumps({"config_dir": str(config_dir), "pciids": [pf]}))
    main = parse_main(main_file.read_text(), file=str(main_file)).config
    monkeypatch.setattr("vfd.daemon.managed.open_nic", opened)
    made = Service(Files(main_file, main), main, Journal(), Zero(folder / "zero"), "test")
    made.start()
    try:
        yield made
    finally:
        made.stop()
        (LOCKS / f"{pf}.lock").unlink(missing_ok=True)


@pytest.fixture
def seat(vfd: Vfd) -> Iterator[Callable[[int], str]]:
    """Gives a VF to a guest's new namespace, as eth0, up; returns the namespace's name."""
    with ExitStack() as made:

        def seated(vfid: int) -> str:
            name = f"{vfd.pf}g{vfid}"
            namespace.create(name)
            made.callback(namespace.remove, name)
            run("ip", "link", "set", f"{vfd.pf}v{vfid}", "netns", name, "name", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            wait_for(lambda: vfd.row(vfid)["extended"]["held"])
            return name

        yield seated
