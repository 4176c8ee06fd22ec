"""The packet suite on the emulated 82576 with the kernel's own igb and igbvf."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.igb_bench import IgbBench
from tests.packet.case import Case
from tests.packet.cases import CASES
from tests.packet.runner import Runner

ECHO = "a VF's own broadcast comes back to it"
QINQ = (
    "the tag that a guest sent stays in the frame, behind that of the VF: VLANs stay apart, but the"
    " frame is not refused"
)
SPOOF = "spoof check is not emulated"
EMULATION = {
    "A frame of every protocol is spoofed alike": SPOOF,
    "In access mode every frame leaves with the VF's C-tag": ECHO,
    "Under access tags too, what a VF sends to itself does not come back": ECHO,
    "Tenants in access mode reach each other in their VLAN and nobody else": (
        f"{ECHO}, and what is for a VF of another VLAN does not go to the wire"
    ),
    "In access mode a frame that the guest tagged is refused, even with the VF's own VID": QINQ,
    "In access mode a guest's tag is refused without vlan_anti_spoof too": QINQ,
}
"""Where QEMU's 82576 differs from silicon (docs/lab.md): these cases must fail, or the
emulation has changed."""


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    bench = IgbBench("0000:02:00.0", "wire1")
    yield Runner(bench)
    bench.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_frames_do_as_the_case_says(runner: Runner, case: Case) -> None:
    if reason := runner.bench.lacks(case):
        pytest.skip(reason)
    faults = runner.run(case)
    if case.name in EMULATION:
        assert faults, "the emulation does as silicon does: take the case off the list"
        pytest.xfail(EMULATION[case.name])
    assert not faults, "\n".join(faults)


def test_no_frame_came_late_where_it_must_not_be(runner: Runner) -> None:
    assert runner.late() == []


def test_the_emulations_faults_are_those_of_cases_that_run(runner: Runner) -> None:
    named = [case for case in CASES if case.name in EMULATION]
    assert {case.name for case in named} == EMULATION.keys()
    assert [case.name for case in named if runner.bench.lacks(case)] == []
