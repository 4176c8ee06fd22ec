"""Options of the whole suite, what of it is where, and that nothing is skipped unnoticed."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from tests.amount import drawn
from tests.lacks import Lacks

from vfd.daemon.exclusive import LOCKS, InUseError, Lock

# No deadline: a busy machine proves nothing of one case.
settings.register_profile("vfd", deadline=None, max_examples=drawn(100))
settings.load_profile("vfd")

SEEDS = 1000
"""As many as no test needs."""

HERE = Path(__file__).parent
IN_THE_LABORATORY = {"lab", "lab_netdevsim", "lab_soft"}
"""Folders whose tests are collected in its machine, and nowhere else."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long", action="store_true", help="also run what runs for minutes or without end"
    )
    parser.addoption(
        "--seed", type=int, default=0, help="have what is drawn at random be drawn another way"
    )
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    there = collection_path.parent == HERE and collection_path.name in IN_THE_LABORATORY
    return True if there and "VFD_LAB" not in os.environ else None


def pytest_report_header() -> str | None:
    if "VFD_LAB" in os.environ:
        return None
    return f"only in the laboratory's machine: {', '.join(sorted(IN_THE_LABORATORY))}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: namespaces and BPF"))


@pytest.fixture
def seeds(pytestconfig: pytest.Config) -> range:
    """What to draw from: the same in every run, and others with another ``--seed``."""
    start = pytestconfig.getoption("--seed") * SEEDS
    return range(start, start + SEEDS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not (hasattr(report, "wasxfail") or (call.excinfo and call.excinfo.errisinstance(Lacks))):
        _skip_is_failure(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _skip_is_failure(report, collector.config)
    return report


def _skip_is_failure(
    report: pytest.TestReport | pytest.CollectReport, config: pytest.Config
) -> None:
    if report.skipped and config.getoption("--no-skips"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} proves nothing here, and --no-skips is given. {why}"


@pytest.fixture(scope="session", autouse=True)
def _locks_go_with_their_daemons() -> Iterator[None]:
    """A daemon that a test killed left its locks, which nobody holds: this takes them away."""
    before = {*LOCKS.glob("*.lock")}
    yield
    for path in {*LOCKS.glob("*.lock")} - before:
        with suppress(InUseError, OSError):
            Lock(path, "a lock", "tests").close(remove=True)
