"""HTB trees as values: what a policy's tree is, and the way from one tree to another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfd.nic.soft import rtnl, shaper
from vfd.nic.soft.shaper import HANDLE, LINK, Class, Tree
from vfd.nic.soft.tables import class_id, is_pooled
from vfd.policy.resolve import resolve
from vfd.policy.values import BandwidthGroup, NicPolicy, PfPolicy, TrafficClass, VfPolicy

MBIT = 1_000_000
SPEED = 1000 * MBIT


def trees(*vfs: dict[str, Any], **pf: Any) -> tuple[Tree, Tree]:
    return shaper.trees(resolved(*vfs, **pf), SPEED)


def resolved(*vfs: dict[str, Any], **pf: Any) -> NicPolicy:
    policy = NicPolicy(
        pf=PfPolicy.model_validate({"id": "soft0", "backend": "soft", "vfs": len(vfs), **pf}),
        vfs=tuple(
            VfPolicy.model_validate(
                {"name": f"vm{n}", "pciid": "soft0", "vfid": n, "vlans": [1], **vf}
            )
            for n, vf in enumerate(vfs)
        ),
    )
    return resolve(policy, SPEED).nic


def children(tree: Tree, parent: int) -> list[Class]:
    return [c for c in tree.values() if c.parent == parent]


def test_nobody_is_shaped_without_a_limit() -> None:
    assert trees({}, {}) == ({}, {})
    assert trees({"max_rx_rate": "1Mbps"}) == ({}, {})


def test_a_limit_is_a_leaf_of_its_vf_alone() -> None:
    near, far = trees({}, {"rate": "100Mbps"})
    assert near.keys() == {LINK, class_id(1, 0)}
    assert near[class_id(1, 0)].ceil == 100 * MBIT
    assert far == {}


def test_a_guarantee_is_a_leaf_for_everybody_and_the_rest_is_shared() -> None:
    near, _ = trees({"min_rate": "600Mbps"}, {}, {})
    leaves = children(near, LINK)
    assert [leaf.rate for leaf in leaves] == [600 * MBIT, *[shaper.trickle(SPEED)] * 2]
    assert leaves[0].quantum > leaves[1].quantum == leaves[2].quantum
    assert all(leaf.ceil == 2 * SPEED for leaf in leaves), "none has a ceiling of its own"


def test_classes_share_the_link_and_vfs_share_a_class() -> None:
    classes = [{"pri": n, "min_bw": bw} for n, bw in enumerate((10, 20, 30, 40))]
    queues = [{"priority": 0, "share": 80}], [{"priority": 0, "share": 20}]
    near, far = trees(*({"queues": q} for q in queues), enable_qos=True, tclasses=classes)
    assert [c.rate for c in children(near, LINK)] == [n * SPEED // 10 for n in (1, 2, 3, 4)]
    assert [near[class_id(v, 0)].rate for v in (0, 1)] == [80 * MBIT, 20 * MBIT]
    assert far == {}, "no VF has a limit of its own"


def test_eight_classes_are_eight_leaves_of_each_vf() -> None:
    near, _ = trees({}, {}, enable_qos=True, tclasses=[{"pri": n} for n in range(8)])
    assert {class_id(v, n) for v in (0, 1) for n in range(8)} <= near.keys()
    assert len(children(near, LINK)) == 8


def test_strict_classes_come_first_on_the_link_or_own_their_group() -> None:
    classes = [
        TrafficClass(pri=0, min_bw=10),
        TrafficClass(pri=1, min_bw=20),
        TrafficClass(pri=2, min_bw=30, bsp=True),
        TrafficClass(pri=3, lsp=True, max_bw=40),
    ]
    groups = (BandwidthGroup(name="g", classes=(1, 2)),)
    near, _ = trees({}, enable_qos=True, tclasses=classes, bw_grps=groups)
    priority = {pri: near[class_id(0, pri)].priority for pri in range(4)}
    assert priority[3] < priority[2] < priority[1] == priority[0]
    assert near[near[class_id(0, 3)].parent].ceil == 400 * MBIT
    group = near[near[near[class_id(0, 2)].parent].parent]
    members = children(near, _id(near, group))
    # 500 Mbit/s are the group's: the strict one has what the other is not guaranteed
    assert (group.rate, members[0].rate, members[1].rate) == (500 * MBIT, 200 * MBIT, 300 * MBIT)


def test_of_strict_classes_the_one_with_the_larger_pri_comes_first() -> None:
    near, _ = trees({}, enable_qos=True, tclasses=[{"pri": n, "lsp": n > 1} for n in range(4)])
    priority = [near[class_id(0, pri)].priority for pri in range(4)]
    assert priority[3] < priority[2] < priority[1] == priority[0]
    rates = [near[near[class_id(0, pri)].parent].rate for pri in range(4)]
    assert rates[3] == SPEED
    assert rates[:3] == [shaper.trickle(SPEED)] * 3


def test_a_class_strict_in_a_group_that_it_is_not_in_is_like_the_others() -> None:
    near, _ = trees({}, enable_qos=True, tclasses=[{"pri": n, "bsp": n == 3} for n in range(4)])
    assert len({near[class_id(0, pri)].priority for pri in range(4)}) == 1


@given(st.data())
def test_nobody_has_less_than_guaranteed_and_all_together_no_more_than_the_link(
    data: st.DataObject,
) -> None:
    count = data.draw(st.sampled_from([4, 8]))
    min_bw = [data.draw(st.integers(0, 100 // count)) for _ in range(count)]
    classes = [
        {
            "pri": n,
            "min_bw": least,
            "max_bw": data.draw(st.integers(max(1, least), 100)),
            "lsp": data.draw(st.booleans()),
            "bsp": data.draw(st.booleans()),
        }
        for n, least in enumerate(min_bw)
    ]
    vfs = [
        {"min_rate": data.draw(st.floats(0, 1)), "queues": [{"priority": 0, "share": share}]}
        for share in data.draw(st.lists(st.integers(1, 10), min_size=1, max_size=8))
    ]
    groups = {"a": [0, 1], "b": [2]} if data.draw(st.booleans()) else {}
    pf = {"enable_qos": True, "tclasses": classes, "bw_grps": groups, "vf_oversubscription": True}
    policy = resolved(*vfs, **pf)
    near, _ = shaper.trees(policy, SPEED)
    trickles = len(near) * shaper.trickle(SPEED) + 8 * len(near)
    pooled = [is_pooled(policy.pf, vf) for vf in policy.vfs]
    leaves = {
        v: [near[class_id(v, n, pooled=pooled[v])] for n in range(count)] for v in range(len(vfs))
    }
    for classid, c in near.items():
        below = sum(one.rate for one in children(near, classid))
        assert below <= c.rate + trickles, "what is anybody's own is no more than there is"
    for n, least in enumerate(min_bw):
        if least:
            assert near[near[class_id(0, n)].parent].rate >= least * SPEED // 100 - 16
    wanted = sum(vf.min_rate.on(SPEED) for vf in policy.vfs)
    for vf in policy.vfs:
        if pooled[vf.vfid]:
            assert near[leaves[vf.vfid][0].parent].rate >= vf.min_rate.on(SPEED) - 8
            continue
        for n, leaf in enumerate(leaves[vf.vfid]):
            room = min(1.0, SPEED * classes[n]["max_bw"] / 100 / (wanted or 1))
            assert leaf.rate >= vf.min_rate.on(SPEED) * room - 16


def test_what_is_lent_goes_round_in_the_proportion_of_the_shares() -> None:
    shares = (50, 20, 5, 5, 5, 5, 5, 5)
    for speed in (100 * MBIT, 10_000 * MBIT):
        policy = resolved(
            *({"queues": [{"priority": 0, "share": share}]} for share in shares), enable_qos=True
        )
        near, _ = shaper.trees(policy, speed)
        quanta = [near[class_id(v, 0)].quantum for v in range(8)]
        assert [round(quantum / quanta[2], 2) for quantum in quanta] == [s / 5 for s in shares]
        assert min(quanta) >= 65536 + 14, "one buffer at least, or the debt of each round adds up"


def test_shares_that_are_far_apart_are_kept_as_far_as_a_round_is_short_enough() -> None:
    far = [{"queues": [{"priority": 0, "share": 89.9}]}, *[{} for _ in range(100)]]
    near, _ = shaper.trees(resolved(*far, enable_qos=True), 10_000 * MBIT)
    assert near[class_id(0, 0)].quantum / near[class_id(1, 0)].quantum == pytest.approx(890, 0.01)
    slow, _ = shaper.trees(resolved(*far, enable_qos=True), 10 * MBIT)
    quanta = {c.quantum for c in slow.values()} - {0}
    assert (min(quanta), max(quanta)) == (70_000, 700_000)


def test_a_share_of_nothing_is_served_when_nobody_else_wants_anything() -> None:
    near, _ = trees({"queues": [{"priority": 0, "share": 0}]}, {}, enable_qos=True)
    assert near[class_id(0, 0)].priority > near[class_id(1, 0)].priority
    assert near[class_id(0, 0)].rate == shaper.trickle(SPEED)


def test_a_guarantee_is_there_in_each_class_that_states_its_bandwidth() -> None:
    near, _ = trees(
        {"min_rate": "200Mbps", "queues": [{"priority": 0, "share": 5}]},
        {"queues": [{"priority": 0, "share": 45}]},
        {},
        enable_qos=True,
        tclasses=[{"pri": n, "min_bw": 25} for n in range(4)],
    )
    assert [near[class_id(0, pri)].rate for pri in range(4)] == [200 * MBIT] * 4
    assert near[class_id(1, 0)].rate == pytest.approx(50 * MBIT * 45 / 95, 0.01)


def test_a_guarantee_is_one_for_all_classes_where_they_state_no_bandwidth() -> None:
    shares = [[{"priority": 0, "share": share}] for share in (40, 60)]
    vfs: list[dict[str, Any]] = [
        {"min_rate": "600Mbps", "queues": shares[0]},
        {"queues": shares[1]},
    ]
    near, far = trees(*vfs, enable_qos=True)
    own = {near[class_id(0, pri, pooled=True)].parent for pri in range(4)}
    assert len(own) == 1
    assert near[own.pop()] == Class(LINK, 600 * MBIT, SPEED, quantum=0)
    assert {shaper.vf_of_leaf(class_id(0, pri, pooled=True)) for pri in range(4)} == {0}
    # a quarter of what is left, as far as it isn't the share of the one with the guarantee
    assert near[class_id(1, 0)].rate == 60 * MBIT
    quanta = [near[class_id(0, 0, pooled=True)].quantum, near[class_id(1, 0)].quantum]
    assert quanta[0] / quanta[1] == pytest.approx(2 / 3, 0.01)
    assert far == {}


@pytest.mark.parametrize("classes", [[], [{"pri": n, "min_bw": 25} for n in range(4)]])
def test_guarantees_of_a_link_that_became_slower_have_a_tree(classes: list[dict[str, Any]]) -> None:
    """Until the policy is resolved for it, more is guaranteed than there is."""
    nic = resolved(
        {"min_rate": "600Mbps"}, {"rate": "700Mbps"}, {}, enable_qos=True, tclasses=classes
    )
    for speed in (SPEED, 600 * MBIT, 500 * MBIT, 100 * MBIT, 10 * MBIT):
        for tree in shaper.trees(nic, speed):
            assert all(c.rate > 0 and c.ceil > 0 for c in tree.values())


def test_a_vf_that_gets_a_guarantee_leaves_the_others_as_they_are() -> None:
    before, _ = trees({}, {}, enable_qos=True)
    after, _ = trees({"min_rate": "600Mbps"}, {}, enable_qos=True)
    assert not shaper.moved(before, after)


def _id(tree: Tree, wanted: Class) -> int:
    return next(classid for classid, c in tree.items() if c is wanted)


def test_with_classes_a_vfs_own_limit_is_a_tree_before_theirs() -> None:
    for classes in (
        [],
        [{"pri": n} for n in range(8)],
        [{"pri": n, "lsp": n == 3} for n in range(4)],
    ):
        for rate in ("100kbps", "33Mbps", "990Mbps"):
            _, far = trees({"rate": rate}, {}, enable_qos=True, tclasses=classes)
            (limit,) = children(far, HANDLE)
            leaves = children(far, _id(far, limit))
            assert len(leaves) == (len(classes) or 4)
            assert {leaf.ceil for leaf in leaves} == {limit.rate} == {limit.ceil}
            assert sum(leaf.rate for leaf in leaves) <= limit.rate, "leaves send unasked"
            assert all(leaf.rate > 0 for leaf in leaves)
            assert not any(shaper.vf_of_leaf(c) for c in far)


def test_parents_come_before_their_children() -> None:
    for tree in trees({"rate": "5Mbps"}, {}, enable_qos=True):
        seen = {HANDLE}
        for classid, c in tree.items():
            assert c.parent in seen
            seen.add(classid)


def test_a_tree_is_made_before_frames_come_and_its_leaves_go_after() -> None:
    one, _ = trees({"rate": "1Mbps"}, {})
    both, _ = trees({"rate": "1Mbps"}, {"rate": "2Mbps"})
    first, last = shaper.changes(7, {}, both)
    kinds = [message.type for message in first]
    assert kinds[0] == rtnl.RTM_NEWQDISC
    assert kinds.count(rtnl.RTM_NEWTCLASS) == len(both)
    assert last == []
    first, last = shaper.changes(7, both, one)
    assert first == []
    assert [message.type for message in last] == [rtnl.RTM_DELTCLASS]
    assert shaper.changes(7, one, one) == ([], [])
    first, last = shaper.changes(7, one, {})
    assert (first, [message.type for message in last]) == ([], [rtnl.RTM_DELQDISC])


def test_a_class_under_another_parent_makes_the_tree_anew() -> None:
    plain, _ = trees({"rate": "1Mbps"})
    classed, _ = trees({"rate": "1Mbps"}, enable_qos=True)
    assert shaper.moved(plain, classed)
    assert not shaper.moved(plain, trees({"rate": "2Mbps"})[0])
