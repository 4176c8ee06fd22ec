"""Intel's sysfs as a control surface, on a model of it (lab/models/intel.py)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernel.modelled import CLOSED, Modelled, PortVlan, modelled, part

from vfd.nic.kernel.intel import IntelSysfs
from vfd.nic.kernel.parts import assignments, write_rules
from vfd.nic.protocol import NicError, Support
from vfd.policy.values import PfPolicy, VfRules

pytestmark = pytest.mark.root
PF = PfPolicy(id="0000:01:00.0")


@pytest.fixture
def model() -> Iterator[Modelled]:
    with modelled("intel") as mounted:
        yield mounted


@pytest.fixture
def surface(model: Modelled) -> IntelSysfs:
    return IntelSysfs(model.root, PF)


TRUNK = VfRules(
    vlans=[2, "10-20"],
    macs=["02:11:00:00:00:01", "02:11:00:00:00:02"],
    allow_bcast=False,
    mirror={"target": 3, "direction": "in"},
)


def set_rules(surface: IntelSysfs, vfid: int, rules: VfRules) -> None:
    surface.write({vfid: part(surface, rules)})


def test_a_policy_is_read_back_as_it_was_asked(model: Modelled, surface: IntelSysfs) -> None:
    set_rules(surface, 1, TRUNK)
    shown = surface.read()[1]
    assert shown == surface.express(part(surface, TRUNK))
    assert shown["vlans"] == TRUNK.vlans
    assert shown["mirror"] == TRUNK.mirror
    assert model.text("1/trunk") == "2,10-20"
    assert model.vf(1)["macs"].count("02:11:00:00:00:01") == 1


def test_a_vlan_list_is_one_write_whatever_its_length(model: Modelled, surface: IntelSysfs) -> None:
    set_rules(surface, 0, VfRules(vlans=list(range(1, 129, 2))[:64]))
    assert [path for path, _, _ in model.log()].count("/0/trunk") == 1


def test_writing_the_same_policy_again_writes_nothing(model: Modelled, surface: IntelSysfs) -> None:
    set_rules(surface, 1, TRUNK)
    before = len(model.log())
    set_rules(surface, 1, TRUNK)
    IntelSysfs(model.root, PF).write({1: part(surface, TRUNK)})
    assert len(model.log()) == before


def test_only_what_differs_is_written(model: Modelled, surface: IntelSysfs) -> None:
    set_rules(surface, 1, TRUNK)
    before = len(model.log())
    set_rules(surface, 1, TRUNK.model_copy(update={"allow_bcast": True}))
    assert model.log()[before:] == [("/1/allow_bcast", "on", 0)]


def test_other_vfs_see_no_write_and_no_reset(model: Modelled, surface: IntelSysfs) -> None:
    others = [model.vf(vfid) for vfid in (0, 2, 3)]
    set_rules(surface, 1, TRUNK)
    surface.write({1: CLOSED})
    assert [model.vf(vfid) for vfid in (0, 2, 3)] == others


def test_a_trunk_never_lets_every_vlan_pass_while_it_changes(
    model: Modelled, surface: IntelSysfs
) -> None:
    set_rules(surface, 1, VfRules(vlans=[5]))
    before = len(model.log())
    set_rules(surface, 1, VfRules(vlans=[6]))
    assert [text for path, text, _ in model.log()[before:] if path == "/1/trunk"] == [
        "add 6",
        "rem 5",
    ]


@pytest.mark.parametrize("strip", [True, False])
def test_the_hardware_strips_tags_only_where_the_policy_does(
    model: Modelled, surface: IntelSysfs, strip: bool
) -> None:
    """Each edit of the trunk turns stripping on where ``vlan_strip`` does not show it."""
    set_rules(surface, 1, VfRules(vlans=[5, 6], strip_ctag=strip))
    set_rules(surface, 1, VfRules(vlans=[5, 7], strip_ctag=strip))
    assert model.vf(1)["strips"] is strip


@pytest.mark.parametrize("untagged", [True, False])
def test_untagged_frames_are_let_in_by_the_policy_not_by_the_trunk(
    model: Modelled, surface: IntelSysfs, untagged: bool
) -> None:
    set_rules(surface, 1, VfRules(vlans=[5], allow_untagged=untagged))
    assert model.vf(1)["allow_untagged"] is untagged
    assert surface.read()[1]["allow_untagged"] is untagged


def test_a_mirror_that_gets_another_target_leaves_no_rule_behind(
    model: Modelled, surface: IntelSysfs
) -> None:
    for target in (2, 3):
        set_rules(surface, 1, VfRules(vlans=[5], mirror={"target": target}))
    assert sorted(model.vf(1)["mirror_rules"]) == [["egress_mirror", 3], ["ingress_mirror", 3]]
    set_rules(surface, 1, VfRules(vlans=[5]))
    assert model.vf(1)["mirror_rules"] == []


def test_a_mirror_by_vlan_is_refused_since_it_would_copy_other_guests_frames(
    surface: IntelSysfs,
) -> None:
    rules = VfRules(vlans=[5], mirror={"target": 2, "vlans": [5]})
    assert "every VF" in surface.shortfalls(rules)["mirror"].reason


def test_a_closed_vf_is_disabled_and_keeps_nothing(model: Modelled, surface: IntelSysfs) -> None:
    set_rules(surface, 1, TRUNK)
    surface.write({1: CLOSED})
    vf = model.vf(1)
    assert (vf["enable"], vf["link"]) == (False, "disable")
    assert vf["trunk"] == []
    assert vf["mirror_rules"] == []
    assert vf["promisc"] == []
    assert sorted(vf["macs"]) == ["02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"]
    assert surface.read()[1] == surface.express(CLOSED)


def test_a_vf_is_enabled_after_its_filters_are_there(model: Modelled, surface: IntelSysfs) -> None:
    surface.write({1: CLOSED})
    before = len(model.log())
    set_rules(surface, 1, VfRules(vlans=[5], link_status="off"))
    writes = [(path, text) for path, text, _ in model.log()[before:]]
    assert writes[-2:] == [("/1/enable", "on"), ("/1/link_state", "disable")]
    assert ("/1/trunk", "add 5") in writes[:-2]


@pytest.mark.parametrize("number", range(1, 14))
def test_a_refused_write_is_undone(model: Modelled, surface: IntelSysfs, number: int) -> None:
    set_rules(surface, 1, VfRules(vlans=[5, 7], macs=["02:22:00:00:00:01"]))
    before, macs = surface.read(), model.vf(1)["macs"]
    model.act("fail", f"{number} 5")
    with pytest.raises(NicError, match="refused"):
        surface.write({1: part(surface, TRUNK), 2: part(surface, TRUNK)})
    assert surface.read()[1] == before[1]
    assert sorted(model.vf(1)["macs"]) == sorted(macs)
    assert surface.read()[2]["macs"] == ()
    assert model.text("2/trunk") == ""


@pytest.mark.parametrize("number", range(1, 8))
def test_what_a_crash_left_half_done_is_finished_by_the_next_write(
    model: Modelled, surface: IntelSysfs, number: int
) -> None:
    """Killed at the Nth write: nothing is undone, and another process starts from what is there."""
    wanted = part(surface, TRUNK)
    model.act("kill", str(number))
    if not (child := os.fork()):
        try:
            surface.write({1: wanted})
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    after_crash = IntelSysfs(model.root, PF)
    assert after_crash.read()[1] != after_crash.express(wanted)
    after_crash.write({1: wanted})
    assert after_crash.read()[1] == after_crash.express(wanted)


def test_macs_that_the_guest_asked_for_itself_stay(model: Modelled, surface: IntelSysfs) -> None:
    set_rules(surface, 1, VfRules(vlans=[5], macs=["02:22:00:00:00:01"]))
    model.act("guest_mac", "1 02:99:00:00:00:01")
    assert surface.read()[1]["macs"] == ("02:22:00:00:00:01",)
    set_rules(surface, 1, VfRules(vlans=[5], macs=["02:22:00:00:00:02"]))
    assert "02:99:00:00:00:01" in model.vf(1)["macs"]
    assert surface.read()[1]["macs"] == ("02:22:00:00:00:02",)


@pytest.mark.parametrize("is_read_before", [True, False])
def test_a_restart_takes_no_mac_from_the_guest_that_asked_for_it(
    model: Modelled, surface: IntelSysfs, *, is_read_before: bool
) -> None:
    asked = VfRules(vlans=[5], macs=["02:22:00:00:00:01"])
    set_rules(surface, 1, asked)
    model.act("guest_mac", "1 02:99:00:00:00:01")
    restarted = IntelSysfs(model.root, PF)
    if is_read_before:
        restarted.read()
    set_rules(restarted, 1, asked)
    assert "02:99:00:00:00:01" in model.vf(1)["macs"]
    assert restarted.read()[1]["macs"] == ("02:22:00:00:00:01",)
    set_rules(restarted, 1, VfRules(vlans=[5]))
    assert "02:99:00:00:00:01" in model.vf(1)["macs"]
    assert "02:22:00:00:00:01" not in model.vf(1)["macs"]


def test_a_mac_that_the_guest_asks_for_after_a_restart_is_no_drift(
    model: Modelled, surface: IntelSysfs
) -> None:
    set_rules(surface, 1, TRUNK)
    restarted = IntelSysfs(model.root, PF)
    before = restarted.read()
    model.act("guest_mac", "1 02:99:00:00:00:01")
    assert restarted.read() == before


def test_a_restart_takes_a_mac_back_that_is_anothers_now_and_all_of_a_vf_that_it_closes(
    model: Modelled, surface: IntelSysfs
) -> None:
    moved, kept = "02:22:00:00:00:01", "02:22:00:00:00:02"
    set_rules(surface, 1, VfRules(vlans=[5], macs=[moved]))
    set_rules(surface, 2, VfRules(vlans=[5], macs=[kept]))
    restarted = IntelSysfs(model.root, PF)
    wanted = {1: VfRules(vlans=[5]), 0: VfRules(vlans=[5], macs=[moved]), 2: None}
    restarted.write(
        {vfid: part(surface, rules) if rules else CLOSED for vfid, rules in wanted.items()}
    )
    assert moved not in model.vf(1)["macs"]
    assert moved in model.vf(0)["macs"]
    assert kept not in model.vf(2)["macs"]


def test_a_mac_that_the_driver_drops_silently_is_an_error(
    model: Modelled, surface: IntelSysfs
) -> None:
    for number in range(225):
        model.act("guest_mac", f"1 02:99:00:00:00:{number:02x}")
    surface.write({1: CLOSED})
    set_rules(surface, 1, VfRules(vlans=[5]))
    for number in range(225):
        model.act("guest_mac", f"1 02:99:00:00:00:{number:02x}")
    with pytest.raises(NicError, match="without effect"):
        set_rules(surface, 1, VfRules(vlans=[5], macs=["02:22:00:00:00:01"]))


def test_an_access_vlan_is_left_to_rtnetlink(model: Modelled, surface: IntelSysfs) -> None:
    """A write to the trunk would end the port VLAN that rtnetlink has set."""
    model.act("port_vlan", "1 30")
    set_rules(surface, 1, VfRules(vlans=[30], strip_ctag=True, macs=["02:22:00:00:00:01"]))
    assert model.vf(1)["port_vlan"] == 30
    assert not [path for path, _, _ in model.log() if path == "/1/trunk"]


def test_untagged_only_is_refused_since_an_empty_trunk_lets_all_pass(surface: IntelSysfs) -> None:
    assert "every VLAN" in surface.shortfalls(VfRules(allow_untagged=True))["vlans"].reason


def test_without_vfs_the_interface_offers_nothing() -> None:
    with modelled("intel", vfs=0) as empty:
        surface = IntelSysfs(empty.root, PF)
        assert not surface.capabilities()
        assert not surface.pf_capabilities()


RULES = st.builds(
    VfRules,
    vlans=st.lists(st.integers(1, 12), min_size=2, max_size=6, unique=True),
    strip_ctag=st.booleans(),
    allow_untagged=st.booleans(),
    vlan_anti_spoof=st.booleans(),
    allow_bcast=st.booleans(),
    allow_mcast=st.booleans(),
    allow_un_ucast=st.booleans(),
    macs=st.lists(
        st.sampled_from([f"02:22:00:00:00:{n:02x}" for n in range(6)]), max_size=4, unique=True
    ),
    mirror=st.sampled_from(
        [
            [],
            [{"target": 3, "direction": "in"}],
            [{"target": 3, "direction": "all"}],
            [{"target": 2, "direction": "out"}, {"target": 3, "direction": "in"}],
        ]
    ),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1), st.none() | RULES), min_size=1, max_size=6))
def test_after_any_policies_what_is_read_is_what_was_expressible(
    model: Modelled, steps: list[tuple[int, VfRules | None]]
) -> None:
    surface = IntelSysfs(model.root, PF)
    surface.write({0: CLOSED, 1: CLOSED})
    exposed = [vf["exposed"] for vf in model.state()["vfs"]]
    for vfid, rules in steps:
        assigned = CLOSED if rules is None else part(surface, rules)
        surface.write({vfid: assigned})
        assert surface.read()[vfid] == surface.express(assigned)
        vf = model.vf(vfid)
        assert vf["enable"] is (rules is not None)
        if rules:
            assert vf["strips"] is rules.strip_ctag
            assert len(vf["mirror_rules"]) == len(
                {(name, target) for name, target in vf["mirror_rules"]}
            )
    assert [vf["exposed"] for vf in model.state()["vfs"]] == exposed


ACCESS = st.builds(VfRules, vlans=st.tuples(st.integers(1, 12)).map(list), strip_ctag=st.just(True))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | ACCESS | RULES, min_size=1, max_size=6))
def test_a_vf_goes_between_trunk_and_port_vlan_whatever_came_before(
    model: Modelled, steps: list[VfRules | None]
) -> None:
    """The driver lets a port VLAN replace the trunk, its end empty it, and a trunk end it."""
    surfaces = (IntelSysfs(model.root, PF), PortVlan(model, "port_vlan"))
    now: VfRules | None = None
    for rules in [*steps, None]:
        write_rules(surfaces, assignments(surfaces), {1: (now, rules)})
        now = rules
        vf = model.vf(1)
        access = rules.access_vid if rules else None
        assert vf["enable"] is (rules is not None)
        assert vf["port_vlan"] == (access or 0)
        assert vf["trunk"] == (sorted(rules.vlans) if rules else [])


def test_each_attribute_says_by_what_it_is_enforced(surface: IntelSysfs) -> None:
    offers = surface.capabilities()
    assert offers["macs"].support is Support.ENFORCED
    assert offers["vlans"].support is Support.LIMITED
    assert {offer.by for offer in offers.values()} == {"sysfs:i40e"}
