"""What a plan must always be: complete, ordered, empty when there is nothing to do."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.amount import drawn

from vfd.plan.changes import PfChange, VfChange
from vfd.plan.plan import Observed, field_values, owned, plan
from vfd.policy.values import LinkStatus, Mirror, NicPolicy, PfPolicy, VfPolicy, VfRules

MACS = [f"02:00:00:00:00:{i:02x}" for i in range(1, 7)]
PF = PfPolicy(id="soft0", backend="soft", vfs=5)


def as_it_is(_vfid: int, rules: VfRules | None) -> VfRules | None:
    return rules


def vf(vfid: int, **fields: object) -> VfPolicy:
    return VfPolicy.model_validate(
        {"name": f"vf{vfid}", "pciid": "soft0", "vfid": vfid, "allow_untagged": True, **fields}
    )


def nic(*vfs: VfPolicy, pf: PfPolicy = PF) -> NicPolicy:
    return NicPolicy(pf=pf, vfs=vfs)


def shows(nic: NicPolicy, *, vfs: int = 5) -> Observed:
    open_vfs = nic.by_vfid()
    return Observed(nic.pf, {i: open_vfs[i].rules if i in open_vfs else None for i in range(vfs)})


@st.composite
def policies(draw: st.DrawFn) -> NicPolicy:
    """Up to 5 VFs, no MAC owned twice, mirrors only to VFs that are there."""
    open_vfs = draw(st.sets(st.integers(0, 4)))
    macs = draw(st.permutations(MACS))
    made = []
    for vfid in sorted(open_vfs):
        mine = [macs.pop() for _ in range(draw(st.integers(0, min(2, len(macs)))))]
        targets = draw(st.sets(st.sampled_from(sorted(open_vfs)), max_size=2)) - {vfid}
        made.append(
            vf(
                vfid,
                vm_mac=mine[0] if mine else None,
                macs=mine[1:],
                vlans=draw(st.sets(st.integers(1, 3))),
                mirror=[{"target": t} for t in sorted(targets)],
            )
        )
    return nic(*made)


@given(policies(), policies())
@settings(max_examples=drawn(400))
def test_the_changes_lead_from_what_is_seen_to_what_is_desired(
    before: NicPolicy, after: NicPolicy
) -> None:
    state = dict(shows(before).vfs)
    for change in plan(after, shows(before), as_it_is):
        assert isinstance(change, VfChange)
        assert state[change.vfid] == change.before
        state[change.vfid] = change.after
    assert state == shows(after).vfs


@given(policies(), policies())
@settings(max_examples=drawn(400))
def test_at_no_step_do_two_vfs_own_a_mac_or_a_mirror_lack_its_target(
    before: NicPolicy, after: NicPolicy
) -> None:
    state = dict(shows(before).vfs)
    for change in plan(after, shows(before), as_it_is):
        assert isinstance(change, VfChange)
        state[change.vfid] = change.after
        for (_, one), (_, other) in itertools.combinations(state.items(), 2):
            assert not owned(one) & owned(other)
        for rules in state.values():
            for mirror in rules.mirror if rules else ():
                assert state[mirror.target] is not None


@given(policies(), policies())
def test_the_inverses_in_reverse_lead_back(before: NicPolicy, after: NicPolicy) -> None:
    state = dict(shows(after).vfs)
    for change in reversed(plan(after, shows(before), as_it_is)):
        undo = change.inverse()
        assert isinstance(undo, VfChange)
        assert state[undo.vfid] == undo.before
        state[undo.vfid] = undo.after
    assert state == shows(before).vfs


@given(policies())
def test_a_nic_that_shows_what_is_desired_needs_no_change(policy: NicPolicy) -> None:
    assert plan(policy, shows(policy), as_it_is) == ()


def test_two_vfs_can_swap_their_macs() -> None:
    before = nic(vf(0, vm_mac=MACS[0]), vf(1, vm_mac=MACS[1]))
    after = nic(vf(0, vm_mac=MACS[1]), vf(1, vm_mac=MACS[0]))
    changes = plan(after, shows(before), as_it_is)
    assert [c.vfid for c in changes if isinstance(c, VfChange)] == [0, 1, 0]


def test_vfs_that_go_close_before_the_pf_loses_them() -> None:
    before = nic(vf(0), vf(4))
    after = nic(vf(0), pf=PF.model_copy(update={"vfs": 2}))
    close, pf = plan(after, shows(before), as_it_is)
    assert close == VfChange(4, vf(4).rules, None)
    assert isinstance(pf, PfChange)
    assert pf.fields == ("vfs",)


def test_vfs_that_come_open_after_the_pf_has_them() -> None:
    pf, opened = plan(
        nic(vf(7), pf=PF.model_copy(update={"vfs": 8})), shows(nic(vf(0)), vfs=0), as_it_is
    )
    assert isinstance(pf, PfChange)
    assert opened == VfChange(7, None, vf(7).rules)


def test_a_vf_that_comes_opens_after_the_pf_has_it_also_where_it_takes_over_a_mirror() -> None:
    """It must open before the VF goes that was the mirror's target until now."""
    before = nic(vf(0, mirror=[{"target": 1}]), vf(1))
    after = nic(vf(0, mirror=[{"target": 7}]), vf(7), pf=PF.model_copy(update={"vfs": 8}))
    pf, *vfs = plan(after, shows(before), as_it_is)
    assert isinstance(pf, PfChange)
    assert [c.vfid for c in vfs if isinstance(c, VfChange)] == [7, 0, 1]


def test_a_vf_that_opens_or_closes_changes_in_all_its_attributes() -> None:
    rules = vf(3).rules
    assert VfChange(3, None, rules).fields == tuple(VfRules.model_fields)
    assert VfChange(3, rules, None).fields == tuple(VfRules.model_fields)


def test_a_nic_never_configured_gets_its_pf_first() -> None:
    first, second = plan(nic(vf(0)), Observed(None, {0: None}), as_it_is)
    assert first == PfChange(None, PF)
    assert second == VfChange(0, None, vf(0).rules)


def test_what_a_nic_shows_of_a_closed_vf_is_closed() -> None:
    def never_quite_closed(_vfid: int, rules: VfRules | None) -> VfRules | None:
        return rules or VfRules(link_status=LinkStatus.OFF)

    shown = VfRules.model_validate({"link_status": "off"})
    seen = Observed(PF, {0: shown, 1: shown})
    assert plan(nic(), seen, never_quite_closed) == ()
    assert plan(nic(vf(1)), seen, never_quite_closed) == (VfChange(1, None, vf(1).rules),)


def test_the_number_of_vfs_is_the_nics_where_none_is_asked_for() -> None:
    unset = PF.model_copy(update={"vfs": None})
    assert plan(nic(pf=unset), shows(nic()), as_it_is) == ()


def test_a_change_is_told_by_each_attribute_with_before_and_after() -> None:
    before = vf(3, vlans=[10], mac_anti_spoof=False).rules
    after = before.model_copy(update={"vlans": (10, 20), "mirror": (Mirror(target=1),)})
    assert list(field_values(VfChange(3, before, after))) == [
        ("vlans", [10], [10, 20]),
        ("mirror", [], [{"target": 1, "direction": "all", "vlans": []}]),
    ]
    assert list(field_values(VfChange(3, before, None))) == []
    assert list(field_values(VfChange(3, None, before))) == [
        ("vlans", None, [10]),
        ("allow_untagged", None, True),
        ("mac_anti_spoof", None, False),
    ]
