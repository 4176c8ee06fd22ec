"""The packet suite on the soft NIC: real frames between guests and a wire.

The soft NIC lacks nothing: what isn't shown with a kind of guest is what that guest can't do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Literal

import pytest
from _pytest.mark import ParameterSet

from . import load
from .case import Case
from .cases import CASES
from .measured import MEASURED, Measured
from .runner import Runner, say
from .soft_bench import SoftBench

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, packet sockets, BPF"),
]

BEYOND: dict[str, frozenset[str]] = {
    # it asks by what it does to its interface, and nothing that one can do to it asks for the rest
    "veth": frozenset({"mailbox", "no wire"}),
    # its guest is a virtual machine, which asks only by what it sends (tests/soft), can't be told
    # that the link is down, and whose TCP this bench has no machine for
    "tap": frozenset({"mailbox", "no wire", "requests", "guest link", "offload"}),
}
"""What each kind of guest can't show, and a NIC with an uplink."""


def by_guest(rows: Iterable[Case | Measured]) -> list[ParameterSet]:
    """A runner's guests with what each of them can show."""
    both = [(guest, row) for guest in BEYOND for row in rows if not row.features & BEYOND[guest]]
    return [pytest.param(guest, row, id=f"{guest}-{row.name}") for guest, row in both]


WITHOUT_WIRE = tuple(case for case in CASES if "no wire" in case.needs)


@pytest.fixture(scope="module", params=BEYOND)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Each case starts from its own policy, with the wire up and no grants: ``Bench.configure``.
    What came late is told at the end, whichever cases ran."""
    bench = SoftBench(request.param)
    try:
        runner = Runner(bench)
        yield runner
        say(runner.late())
    finally:
        bench.close()


def with_runner(argument: str, rows: Iterable[Case | Measured]) -> pytest.MarkDecorator:
    """Rows for an argument and the runner they need, which lasts for all of its module's."""
    return pytest.mark.parametrize(
        ("runner", argument), by_guest(rows), indirect=["runner"], scope="module"
    )


@pytest.fixture
def soft(runner: Runner) -> SoftBench:
    """The bench alone, for loads, with nothing under way."""
    runner.silence()
    assert isinstance(runner.bench, SoftBench)
    return runner.bench


@with_runner("case", CASES)
def test_real_frames_do_as_the_case_says(runner: Runner, case: Case) -> None:
    say(runner.run(case))


@pytest.mark.parametrize("case", WITHOUT_WIRE, ids=lambda case: case.name)
@pytest.mark.parametrize("guest", ["veth", "tap"])
def test_without_an_uplink_real_frames_do_as_the_case_says(
    guest: Literal["veth", "tap"], case: Case
) -> None:
    bench = SoftBench(guest, has_wire=False)
    try:
        say(Runner(bench).run(case))
    finally:
        bench.close()


@pytest.mark.measured
@with_runner("row", MEASURED)
def test_what_takes_time_lies_in_its_bounds(soft: SoftBench, row: Measured) -> None:
    say(load.run(soft, row))
