"""Daemons for tests: each with a soft NIC of its own, removed afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import Vfd


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
