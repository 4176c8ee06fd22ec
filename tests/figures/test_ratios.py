"""What the bench makes of what it measured: faults here would make every figure a lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench.contestants import CLSACT, TCX, mac_of
from bench.datapath import IMIX, SHORT, Result, figures
from bench.figure import Figure
from bench.ratios import Slices, Spread
from bench.traffic import Guest, Lane


def slices(**lanes: list[float]) -> Slices[str]:
    return Slices({lane: [[value] for value in values] for lane, values in lanes.items()})


def test_a_ratio_is_taken_within_each_round() -> None:
    """The medians' ratio would be 2."""
    assert slices(ours=[4, 3, 5], its=[1, 2, 4]).ratio("ours", "its").median == 1.5


def test_quartiles_lie_around_the_median_of_the_rounds_ratios() -> None:
    ratio = slices(ours=[50, 10, 30, 20, 40], its=[10] * 5).ratio("ours", "its")
    assert ratio == Spread(low=2, median=3, high=4, least=1, most=5)


def test_a_bar_is_judged_once_more_rounds_would_not_turn_the_verdict() -> None:
    """Rounds that scatter evenly from 1.1 to 1.3 have a median of 1.2, give or take 0.01 or 0.1."""
    many, few = (
        Spread.of([1.1 + 0.2 * turn / rounds for turn in range(rounds + 1)]) for rounds in (400, 6)
    )
    assert many.least == pytest.approx(1.19, abs=0.002)
    assert many.most == pytest.approx(1.21, abs=0.002)
    assert [many.tells(bar) for bar in (1.18, 1.2, 1.22)] == [True, False, True]
    assert [few.tells(bar) for bar in (1.09, 1.15, 1.2, 1.25, 1.31)] == [True] + [False] * 3 + [
        True
    ]
    assert Spread.of([1.2]).tells(1.2)


def test_what_is_common_to_both_is_taken_out_of_both_in_each_round() -> None:
    race = slices(ours=[124, 248], its=[100, 200], generator=[50, 100])
    assert race.ratio("ours", "its").median == 1.24
    assert race.ratio("ours", "its", less="generator").median == 1.48


def test_one_odd_value_in_a_slice_changes_no_median_but_the_high_percentile() -> None:
    race = Slices({"trip": [[10.0] * 9 + [1000.0], [10.0] * 10]})
    assert race.rounds("trip") == [10, 10]
    assert race.median("trip") == 10
    assert race.percentile("trip", 50) == 10
    assert race.percentile("trip", 99) > 700


def test_lanes_that_ran_in_other_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        slices(ours=[1, 2], its=[1]).ratio("ours", "its")


# The bars

GUEST = Guest("", "", mac_of(0))
BARE = Lane("bare veth", "none, two ports only", None, "", GUEST, (GUEST,))
BRIDGE = Lane("bridge", "none", 8, "", GUEST, (GUEST,))
OURS = Lane("vfd", "full, untagged", 8, TCX, GUEST, (GUEST,))


def result(kind: str, costs: dict[Lane, float]) -> Result:
    return Result(kind, tuple(costs), Slices({lane: [[cost]] for lane, cost in costs.items()}))


def bar_of(lane: Lane, cost: float, kind: str = IMIX) -> Figure:
    found = figures({kind: result(kind, {BARE: 1000, BRIDGE: 2000, lane: cost})})
    return next(figure for figure in found if figure.unit == "× bare veth")


@pytest.mark.parametrize(
    ("lane", "kind", "bar"),
    [
        (OURS, IMIX, 1.15),
        (replace(OURS, hook=CLSACT), IMIX, 1.19),
        (replace(OURS, what="full, access VLAN"), IMIX, 1.18),
        (OURS, SHORT, 1.2),
    ],
)
def test_a_bar_is_reached_up_to_its_value_and_missed_above(
    lane: Lane, kind: str, bar: float
) -> None:
    assert bar_of(lane, bar * 1000, kind).verdict == "reached"
    assert bar_of(lane, bar * 1000 + 1, kind).verdict == "MISSED"


def test_a_figure_shows_the_ratio_and_both_costs() -> None:
    figure = bar_of(OURS, 1154)
    assert figure.measured_text == "1.154 × bare veth"
    assert figure.beside == "1154 and 1000 ns"


@pytest.mark.parametrize(
    ("off", "around", "verdict"),
    [
        (30, 1110, "reached"),
        (30, 1150, "not quiet"),
        (80, 1110, "not quiet"),
        (80, 1300, "MISSED"),
        (80, 900, "reached"),
    ],
)
def test_nothing_is_said_of_a_bar_amid_rounds_that_scatter(
    off: int, around: int, verdict: str
) -> None:
    """Of five rounds the median may be any; the bar is 1.15."""
    by = {
        BARE: [[1000.0]] * 5,
        BRIDGE: [[2000.0]] * 5,
        OURS: [[float(around + k * off)] for k in (-1, -1, 0, 1, 1)],
    }
    found = figures({IMIX: Result(IMIX, tuple(by), Slices(by))})
    assert next(f.verdict for f in found if f.unit == "× bare veth") == verdict


def test_another_version_is_raced_but_held_to_no_bar() -> None:
    other = replace(OURS, who="vfd 5035468")
    found = figures({IMIX: result(IMIX, {BARE: 1000, BRIDGE: 2000, other: 9000, OURS: 1100})})
    assert [figure.verdict for figure in found] == ["reached"] * len(found)


def test_many_vfs_are_compared_with_few_of_the_same_policy_and_hook() -> None:
    costs: dict[Lane, float] = {BARE: 1000, BRIDGE: 2000, replace(BRIDGE, vfs=256): 2000}
    for what, few, many in (("full, untagged", 1000, 1090), ("full, access VLAN", 1100, 1221)):
        costs[replace(OURS, what=what)] = few
        costs[replace(OURS, what=what, vfs=256)] = many
    growth = next(f for f in figures({IMIX: result(IMIX, costs)}) if f.unit == "× 8 VFs")
    assert growth.measured == pytest.approx(1.11)
    assert growth.verdict == "MISSED"


def test_the_worst_row_beside_a_bridge_has_the_bridges_number_of_ports() -> None:
    costs = {
        BARE: 1000.0,
        BRIDGE: 2000.0,
        replace(BRIDGE, vfs=64): 1000.0,
        OURS: 1900.0,
        replace(OURS, vfs=64): 1100.0,
    }
    worst = next(f for f in figures({"rtt": result("rtt", costs)}) if f.unit == "× bridge")
    assert worst.measured == pytest.approx(1.1)


def test_a_row_is_held_to_the_floor_of_its_own_hook_and_way() -> None:
    floors = [
        Lane("floor", "empty", None, hook, GUEST, (GUEST,), peer=peer)
        for hook in (CLSACT, TCX)
        for peer in (True, False)
    ]
    raced = result(IMIX, {BARE: 1000, **dict.fromkeys(floors, 1000), OURS: 1000})
    assert raced.floor(OURS) is floors[2]
    assert raced.floor(replace(OURS, hook=CLSACT, peer=False)) is floors[1]
    assert raced.floor(BARE) is floors[0]
