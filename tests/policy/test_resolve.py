"""Rates, shares and MTUs worked out: docs/semantics.md, "Rates and traffic classes"."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.amount import drawn

from vfd.policy.rate import LEAST_BPS, MOST_BPS, NONE, Rate, bps_text, parse_bps, parse_rate
from vfd.policy.resolve import resolve
from vfd.policy.rules import check
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

LINK = 10**10


def vf(vfid: int = 0, **fields: Any) -> VfPolicy:
    return VfPolicy.model_validate(
        {"name": f"vm{vfid}", "pciid": "soft0", "vfid": vfid, "vlans": [100], **fields}
    )


def nic(*vfs: VfPolicy, **pf: Any) -> NicPolicy:
    policy = PfPolicy.model_validate({"id": "soft0", "backend": "soft", "vfs": 8, **pf})
    return NicPolicy(pf=policy, vfs=vfs)


def test_rates_become_bits_per_second() -> None:
    (one,) = resolve(nic(vf(rate="25%", min_rate=0.1, max_rx_rate="300Mbps")), LINK).nic.vfs
    assert one.rate == Rate(bps=2_500_000_000)
    assert one.min_rate == Rate(bps=1_000_000_000)
    assert one.max_rx_rate == Rate(bps=300_000_000)
    (plain,) = resolve(nic(vf()), LINK).nic.vfs
    assert plain.rate == plain.min_rate == plain.max_rx_rate == NONE


@pytest.mark.parametrize("share", [1e-300, 1e-12, 1e-7])
def test_a_share_of_next_to_nothing_is_the_least_limit_and_never_none(share: float) -> None:
    (one,) = resolve(nic(vf(rate=share, max_rx_rate=share)), LINK).nic.vfs
    assert one.rate == one.max_rx_rate == Rate(bps=LEAST_BPS)


def test_a_vf_without_an_mtu_gets_the_smaller_of_the_default_and_the_pfs() -> None:
    def mtu(default: int, pf: int, **fields: Any) -> int | None:
        return resolve(nic(vf(**fields), default_mtu=default, mtu=pf), LINK).nic.vfs[0].mtu

    assert mtu(1500, 9000) == 1500
    assert mtu(9000, 1500) == 1500
    assert mtu(1500, 9000, mtu=4000) == 4000


FIRST, SECOND = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


@pytest.mark.parametrize(
    ("stated", "default", "further"),
    [
        ({"macs": [FIRST, SECOND]}, FIRST, (SECOND,)),
        ({"macs": [FIRST]}, FIRST, ()),
        ({"vm_mac": FIRST, "macs": [SECOND]}, FIRST, (SECOND,)),
        ({}, None, ()),
    ],
)
def test_without_vm_mac_the_first_of_macs_is_the_default(
    stated: Any, default: str | None, further: tuple[str, ...]
) -> None:
    policy = nic(vf(**stated))
    once = resolve(policy, LINK).nic
    assert (once.vfs[0].vm_mac, once.vfs[0].macs) == (default, further)
    assert resolve(once, LINK).nic.vfs[0].macs == further
    assert policy.vfs[0].macs == tuple(stated.get("macs", ()))


def test_guarantees_over_the_link_are_scaled_in_proportion_and_the_factor_is_told() -> None:
    wanted = nic(vf(1, min_rate=0.5), vf(2, min_rate="15Gbps"), vf_oversubscription=True)
    resolved = resolve(wanted, LINK)
    assert [one.min_rate.on(LINK) for one in resolved.nic.vfs] == [2_500_000_000, 7_500_000_000]
    assert resolved.scale == 0.5
    assert resolve(nic(vf(1, min_rate=1)), LINK).scale == 1


def test_shares_of_the_whole_link_that_round_up_are_not_told_as_scaled() -> None:
    halves = nic(*(vf(n, min_rate=0.5) for n in range(2)))
    odd = 10**10 - 1
    resolved = resolve(halves, odd)
    assert resolved.scale == 1
    assert sum(one.min_rate.on(odd) for one in resolved.nic.vfs) <= odd
    assert resolve(resolved.nic, odd) == resolved


@pytest.mark.parametrize(
    ("min_bw", "kept"),
    [
        ((20, 20, 20, 40), 0.2),
        ((0, 0, 0, 0), 0.6),
        ((0, 1, 0, 0), 0.25),
        ((10, 10, 10, 20), 0.25),
        ((0, 0, 0, 70), 0.1),
    ],
)
def test_guarantees_that_classes_leave_no_room_for_are_scaled(
    min_bw: tuple[int, ...], kept: float
) -> None:
    classes = [{"pri": n, "min_bw": bw} for n, bw in enumerate(min_bw)]
    pf: dict[str, Any] = {"enable_qos": True, "tclasses": classes, "vf_oversubscription": True}
    resolved = resolve(nic(vf(1, min_rate=0.3), vf(2, min_rate=0.3), **pf), LINK)
    assert [one.min_rate.on(LINK) for one in resolved.nic.vfs] == [kept * LINK / 2] * 2
    assert resolved.scale == pytest.approx(kept / 0.6)
    assert resolve(resolved.nic, LINK).scale == 1
    assert resolve(nic(vf(1, min_rate=kept), **pf), LINK).scale == 1


def test_shares_over_a_class_are_scaled_in_proportion_and_the_factor_is_told() -> None:
    shares = [("50%", 50), ("50%", 50), ("20%", 20)]
    vfs = [vf(n, queues=[{"priority": 2, "share": text}]) for n, (text, _) in enumerate(shares)]
    resolved = resolve(nic(*vfs, vf_oversubscription=True, enable_qos=True), LINK)
    got = [{q.priority: q.share for q in one.queues}[2] for one in resolved.nic.vfs]
    assert got == pytest.approx([41.67, 41.67, 16.67], abs=0.01)
    assert resolved.class_scale == {2: pytest.approx(100 / 120)}


def test_without_stated_shares_every_vf_of_the_pf_has_an_equal_one_in_every_class() -> None:
    (one,) = resolve(nic(vf(1), enable_qos=True), LINK).nic.vfs
    assert [(q.priority, q.share) for q in one.queues] == [
        (0, 12.5),
        (1, 12.5),
        (2, 12.5),
        (3, 12.5),
    ]
    eight = [{"pri": n} for n in range(8)]
    (one,) = resolve(nic(vf(1), enable_qos=True, tclasses=eight), LINK).nic.vfs
    assert len(one.queues) == 8


def test_a_vf_that_comes_does_not_change_the_shares_of_the_others() -> None:
    before = resolve(nic(vf(1), vf(2), enable_qos=True), LINK).nic
    after = resolve(nic(vf(1), vf(2), vf(3), enable_qos=True), LINK).nic
    assert after.vfs[:2] == before.vfs


def test_vfs_without_a_share_divide_what_the_others_leave() -> None:
    stated = vf(1, queues=[{"priority": 0, "share": 30}])
    first, second = resolve(nic(stated, vf(2), enable_qos=True), LINK).nic.vfs
    assert first.queues[0].share == 30
    assert second.queues[0].share == pytest.approx(10)


def test_without_qos_shares_stay_as_they_are_stated() -> None:
    first, second = resolve(nic(vf(1, queues=[{"priority": 0, "share": 30}]), vf(2)), LINK).nic.vfs
    assert len(first.queues) == 1
    assert second.queues == ()


rates = st.one_of(
    st.floats(0, 1).map(lambda share: Rate(share=share)),
    st.integers(0, 4 * LINK).map(lambda bps: Rate(bps=bps)),
)


@st.composite
def nics(draw: st.DrawFn) -> NicPolicy:
    vfs = [
        vf(
            number,
            rate=draw(rates),
            min_rate=draw(rates),
            mtu=draw(st.sampled_from([None, 1500])),
            queues=[
                {"priority": tc, "share": draw(st.floats(0, 100))}
                for tc in draw(st.sets(st.integers(0, 3)))
            ],
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    return nic(*vfs, enable_qos=draw(st.booleans()), vf_oversubscription=draw(st.booleans()))


@settings(max_examples=drawn(200))
@given(nics())
def test_resolving_what_is_resolved_changes_nothing(wanted: NicPolicy) -> None:
    once = resolve(wanted, LINK)
    twice = resolve(once.nic, LINK)
    if wanted.pf.vf_oversubscription:
        assert twice.nic == once.nic
        assert twice.scale == 1
    elif not check(wanted, link_bps=LINK):
        assert twice == once


@settings(max_examples=drawn(200))
@given(nics())
def test_under_oversubscription_what_is_resolved_fits(wanted: NicPolicy) -> None:
    if not wanted.pf.vf_oversubscription:
        return
    resolved = resolve(wanted, LINK).nic
    assert sum(one.min_rate.on(LINK) for one in resolved.vfs) <= LINK
    for tc in range(4):
        shares = [q.share for one in resolved.vfs for q in one.queues if q.priority == tc]
        assert not wanted.pf.enable_qos or sum(shares) <= 100 * (1 + 1e-9)


@given(st.integers(0, MOST_BPS))
def test_a_speed_reads_back_as_it_was_written(bps: int) -> None:
    assert parse_bps(bps_text(bps)) == bps


@pytest.mark.parametrize(
    ("text", "bps"),
    [("2Gbps", 2 * 10**9), ("300 Mbps", 3 * 10**8), ("2.5gbit/s", 25 * 10**8), ("7bps", 7),
     ("1.1Gbit", 11 * 10**8), ("1234567890123bps", 1234567890123)],
)  # fmt: skip
def test_speeds_have_units(text: str, bps: int) -> None:
    assert parse_rate(text) == Rate(bps=bps)


@pytest.mark.parametrize(
    ("written", "share"), [("25%", 0.25), (0.25, 0.25), ("0.25", 0.25), (1, 1)]
)
def test_shares_are_numbers_or_percentages(written: Any, share: float) -> None:
    assert parse_rate(written) == Rate(share=share)


@pytest.mark.parametrize(
    "wrong", [2, -0.1, "101%", "2 G", "fast", "", True, None, [], "-1Gbps", "1e9bps", "nan", "٣%"]
)
def test_what_is_neither_share_nor_speed_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"rate|share"):
        parse_rate(wrong)


@pytest.mark.parametrize(
    ("text", "bps"), [("0bps", 0), ("0.4bps", 1), ("0.0000001bps", 1), ("1.5bps", 2)]
)
def test_a_speed_that_is_stated_never_rounds_to_no_limit(text: str, bps: int) -> None:
    assert parse_bps(text) == bps
    assert bool(parse_rate(text)) == bool(bps)
