"""The packet suite on the soft NIC: real frames between guests and a wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

import pytest

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

WITHOUT_WIRE = tuple(case for case in CASES if "no wire" in case.needs)


@pytest.fixture(scope="module", params=("veth", "tap"))
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    bench = SoftBench(request.param)
    yield Runner(bench)
    bench.close()


@pytest.fixture(scope="module")
def soft(runner: Runner) -> SoftBench:
    assert isinstance(runner.bench, SoftBench)
    return runner.bench


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_frames_do_as_the_case_says(runner: Runner, case: Case) -> None:
    if reason := runner.bench.lacks(case):
        pytest.skip(reason)
    say(runner.run(case))


def test_no_frame_came_late_where_it_must_not_be(runner: Runner) -> None:
    say(runner.late())


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
@pytest.mark.parametrize("row", MEASURED, ids=lambda row: row.name)
def test_what_takes_time_lies_in_its_bounds(soft: SoftBench, row: Measured) -> None:
    if reason := soft.lacks(row):
        pytest.skip(reason)
    load.silence(soft)
    say(load.run(soft, row))
