"""Options of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import settings

from vfd.daemon.exclusive import LOCKS, InUseError, Lock

settings.register_profile("vfd", deadline=None)  # a busy machine proves nothing of one case
settings.load_profile("vfd")

SEEDS = 1000
"""As many as no test needs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="also run what runs for minutes or without end"
    )
    parser.addoption(
        "--seed", type=int, default=0, help="have what is drawn at random be drawn another way"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="runs long: pytest --long"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: namespaces and BPF"))


@pytest.fixture
def seeds(pytestconfig: pytest.Config) -> range:
    """What to draw from: the same in every run, and others with another ``--seed``."""
    start = pytestconfig.getoption("--seed") * SEEDS
    return range(start, start + SEEDS)


@pytest.fixture(scope="session", autouse=True)
def _locks_go_with_their_daemons() -> Iterator[None]:
    """A daemon that a test killed left its locks, which nobody holds: this takes them away."""
    before = {*LOCKS.glob("*.lock")}
    yield
    for path in {*LOCKS.glob("*.lock")} - before:
        with suppress(InUseError, OSError):
            Lock(path, "a lock", "tests").close(remove=True)
