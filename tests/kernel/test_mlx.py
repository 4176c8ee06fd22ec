"""Mellanox OFED's VGT+ as a control surface, on a model of it (lab/models/mellanox.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernel.modelled import CLOSED, Modelled, PortVlan, modelled, part

from vfd.nic.kernel.mlx import MlxSysfs
from vfd.nic.kernel.parts import assignments, write_rules
from vfd.nic.kernel.surface import TAGGING
from vfd.nic.protocol import NicError
from vfd.policy.values import VfRules

pytestmark = pytest.mark.root


@pytest.fixture
def model() -> Iterator[Modelled]:
    with modelled("mellanox") as mounted:
        yield mounted


@pytest.fixture
def surface(model: Modelled) -> MlxSysfs:
    return MlxSysfs(model.root)


def set_rules(surface: MlxSysfs, vfid: int, rules: VfRules) -> None:
    surface.write({vfid: part(surface, rules)})


def test_a_trunk_is_read_back_as_it_was_asked(model: Modelled, surface: MlxSysfs) -> None:
    rules = VfRules(vlans=[3, "10-20"], allow_untagged=True)
    set_rules(surface, 1, rules)
    assert model.vf(1)["trunk"] == [0, 3, *range(10, 21)]
    assert surface.read()[1] == surface.express(part(surface, rules))


def test_untagged_only_is_a_list_of_vlan_0(model: Modelled, surface: MlxSysfs) -> None:
    set_rules(surface, 1, VfRules(allow_untagged=True))
    assert model.vf(1)["trunk"] == [0]
    assert surface.read()[1]["vlans"] == ()


def test_only_what_differs_is_written_and_never_an_empty_list(
    model: Modelled, surface: MlxSysfs
) -> None:
    set_rules(surface, 1, VfRules(vlans=[5, 6]))
    before = len(model.log())
    set_rules(surface, 1, VfRules(vlans=[6, 8]))
    set_rules(surface, 1, VfRules(vlans=[6, 8]))
    texts = [text for _, text, _ in model.log()[before:]]
    assert texts == ["add 8 8", "rem 5 5"]


def test_closing_takes_the_whole_list_away_in_one_write(model: Modelled, surface: MlxSysfs) -> None:
    set_rules(surface, 1, VfRules(vlans=[1, 3, 5, 7]))
    before = len(model.log())
    surface.write({1: CLOSED})
    assert len(model.log()) == before + 1
    assert surface.read()[1] == {}


def test_a_refused_range_is_undone(model: Modelled, surface: MlxSysfs) -> None:
    set_rules(surface, 1, VfRules(vlans=[5]))
    model.act("fail", "3 12")
    with pytest.raises(NicError, match="refused"):
        set_rules(surface, 1, VfRules(vlans=[1, 3, 7]))
    assert model.vf(1)["trunk"] == [5]


def test_a_vf_with_a_port_vlan_takes_no_trunk(model: Modelled, surface: MlxSysfs) -> None:
    model.act("port_vlan", "1 30")
    with pytest.raises(NicError, match="not permitted"):
        set_rules(surface, 1, VfRules(vlans=[5]))


def test_access_and_stripping_are_not_this_surfaces(surface: MlxSysfs) -> None:
    for rules in (VfRules(vlans=[5], strip_ctag=True), VfRules(vlans=[5, 6], strip_stag=True)):
        assert surface.shortfalls(rules).keys() >= TAGGING
    assert "vlan_anti_spoof" in surface.shortfalls(VfRules(vlans=[5], vlan_anti_spoof=False))


RULES = st.none() | st.one_of(
    st.builds(
        VfRules,
        vlans=st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True),
        allow_untagged=st.booleans(),
    ),
    st.builds(VfRules, vlans=st.tuples(st.integers(1, 12)).map(list), strip_ctag=st.just(True)),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RULES, min_size=1, max_size=6))
def test_a_vf_goes_between_trunk_and_port_vlan_whatever_came_before(
    model: Modelled, steps: list[VfRules | None]
) -> None:
    """The driver refuses either while there is the other: the old one goes first."""
    surfaces = (MlxSysfs(model.root), PortVlan(model, "vlan"))
    now: VfRules | None = None
    for rules in [*steps, None]:
        write_rules(surfaces, assignments(surfaces), {1: (now, rules)})
        now = rules
        vf = model.vf(1)
        access = rules.access_vid if rules else None
        assert vf["vlan"] == (access or 0)
        trunk = set(rules.vlans) if rules and not access else set()
        if rules and not access and rules.allow_untagged:
            trunk.add(0)
        assert set(vf["trunk"]) == trunk
