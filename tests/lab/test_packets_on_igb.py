"""The packet suite on the emulated 82576 with the kernel's own igb and igbvf."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.lab.igb_bench import IgbBench
from tests.lacks import Lacks
from tests.packet.case import Case
from tests.packet.cases import CASES
from tests.packet.runner import Runner


@dataclass(frozen=True, slots=True)
class Emulated:
    """Where QEMU's 82576 differs from silicon (docs/lab.md)."""

    why: str
    faults: tuple[str, ...]
    """Patterns: each of the case's faults is one of these, and each of these is among them."""


ECHO = Emulated("a VF's own broadcast comes back to it", (r"VF (\d) sent .*: at VF \1 unexpected",))
QINQ = Emulated(
    "the tag that a guest sent stays in the frame, behind that of the VF: VLANs stay apart, but the"
    " frame is not refused",
    (r"VF \d sent .*: at .* unexpected",),
)
SPOOF = Emulated("spoof check is not emulated", (r"VF \d sent .*: at .* unexpected",))
APART = Emulated(
    f"{ECHO.why}, and what is for a VF of another VLAN does not go to the wire",
    (*ECHO.faults, r"VF \d sent .*: at the wire missing"),
)
EMULATION = {
    "A frame of every protocol is spoofed alike": SPOOF,
    "In access mode every frame leaves with the VF's C-tag": ECHO,
    "Under access tags too, what a VF sends to itself does not come back": ECHO,
    "Tenants in access mode reach each other in their VLAN and nobody else": APART,
    "In access mode a frame that the guest tagged is refused, even with the VF's own VID": QINQ,
    "In access mode a guest's tag is refused without vlan_anti_spoof too": QINQ,
}
"""These cases must fail, as they are known to, or the emulation has changed."""


LACKING = {
    *("vlans", "strip_stag", "macs", "mac_anti_spoof", "allow_bcast", "allow_mcast", "mtu"),
    *("strip_ctag", "mirror", "link_status", "enable_loopback"),
    *("requests", "wire link", "no wire", "veiled tags", "MAC control", "runts"),
}
"""What every case that doesn't run here needs: attributes and traits."""


@pytest.fixture(scope="module")
def bench() -> Iterator[IgbBench]:
    bench = IgbBench("0000:02:00.0", "wire1")
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def runner(bench: IgbBench) -> Runner:
    return Runner(bench)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_real_frames_do_as_the_case_says(bench: IgbBench, runner: Runner, case: Case) -> None:
    if reason := bench.lacks(case):
        raise Lacks(reason)
    faults = runner.run(case)
    if (known := EMULATION.get(case.name)) is not None:
        others = [f for f in faults if not any(re.match(p, f) for p in known.faults)]
        assert not others, "\n".join(others)
        gone = [p for p in known.faults if not any(re.match(p, f) for f in faults)]
        assert not gone, "the emulation does as silicon does: take this off the list"
        pytest.xfail(known.why)
    assert not faults, "\n".join(faults)


def test_no_frame_came_late_where_it_must_not_be(runner: Runner) -> None:
    assert runner.late() == []


def test_the_emulations_faults_are_those_of_cases_that_run(bench: IgbBench) -> None:
    named = [case for case in CASES if case.name in EMULATION]
    assert {case.name for case in named} == EMULATION.keys()
    assert [case.name for case in named if bench.lacks(case)] == []


def test_what_is_not_shown_is_what_this_nic_is_known_to_lack(bench: IgbBench) -> None:
    reasons = [bench.lacks(case) for case in CASES]
    assert {reason.partition(":")[0] for reason in reasons if reason} == LACKING
