"""What holds of the reference model for any policies and any frame."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vfd.policy.frames import Frame, Tag, TruncatedError, parse
from vfd.policy.model import WIRE, Model, Verdict
from vfd.policy.requests import Grants
from vfd.policy.values import C_TAG, S_TAG, Direction, LinkStatus, Mirror, NicPolicy, PfPolicy

from .nics import ALL, GROUP, OWN, STRANGER, mac, vf

VFIDS = range(4)
VIDS = (1, 2)
PORTS = st.sampled_from([WIRE, *VFIDS])
tags = st.builds(
    Tag,
    st.sampled_from([C_TAG, S_TAG]),
    st.sampled_from([0, *VIDS, 3, 4095]),
    st.integers(0, 7),
    st.booleans(),
)
macs = st.sampled_from([*(mac(vfid) for vfid in VFIDS), ALL, GROUP, STRANGER, "00:" * 5 + "00"])
frames = st.builds(
    lambda dst, src, tags, size: Frame(dst, src, tuple(tags), b"\x08\x00" + bytes(size)),
    macs,
    macs,
    st.lists(tags, max_size=3),
    st.sampled_from([46, 100, 101, 200]),
)
raw_frames = st.one_of(
    frames.map(bytes), st.tuples(frames, st.integers(0, 30)).map(lambda f: bytes(f[0])[: f[1]])
)
flags = st.booleans()
mirrors = st.builds(
    Mirror,
    target=st.sampled_from(VFIDS),
    direction=st.sampled_from(Direction),
    vlans=st.sampled_from([(), (1,)]),
)
modes = st.sampled_from([{}, {"strip_ctag": True}, {"strip_stag": True}])


@st.composite
def policies(draw: st.DrawFn, vfid: int, mirrored: bool) -> Any:
    vlans = draw(st.sampled_from([(1,), (2,), (1, 2), ()]))
    names = ("allow_bcast", "allow_mcast", "allow_un_ucast", "mac_anti_spoof", "vlan_anti_spoof")
    return vf(
        vfid,
        *vlans,
        allow_untagged=draw(flags) or not vlans,
        link_status=draw(st.sampled_from([LinkStatus.ON, LinkStatus.AUTO, LinkStatus.OFF])),
        mtu=draw(st.sampled_from([100, 200])),
        mirror=tuple(draw(st.lists(mirrors, max_size=2))) if mirrored else (),
        **draw(modes),
        **{name: draw(flags) for name in names},
    )


@st.composite
def models(draw: st.DrawFn, mirrored: bool = True) -> Model:
    open_vfs = draw(st.sets(st.sampled_from(VFIDS)))
    pf = PfPolicy(
        id="soft0", enable_loopback=draw(flags), tpid=draw(st.sampled_from([C_TAG, S_TAG]))
    )
    return Model(
        NicPolicy(pf=pf, vfs=tuple(draw(policies(vfid, mirrored)) for vfid in sorted(open_vfs))),
        {vfid: Grants(groups=frozenset({GROUP})) for vfid in draw(st.sets(st.sampled_from(VFIDS)))},
        OWN,
        draw(flags),
        has_wire=draw(flags),
    )


def vlan_between(model: Model, port: int, sent: Frame, to_wire: bool = False) -> tuple[int, int]:
    """The VLAN of a frame inside the NIC, as TPID and VID, told from outside; (0, 0): none."""
    vf = model.vfs.get(port)
    if vf is not None and vf.access_vid is not None and not to_wire:
        return vf.tpid(model.pf.tpid), vf.access_vid
    outer = sent.outer
    return (outer.tpid, outer.vid) if outer and outer.vid else (0, 0)


def vlans_of(model: Model, vfid: int) -> set[tuple[int, int]]:
    vf = model.vfs[vfid]
    untagged = {(0, 0)} if vf.allow_untagged else set()
    return {(vf.tpid(model.pf.tpid), vid) for vid in vf.vlans} | untagged


@given(models(), PORTS, raw_frames)
def test_the_switch_never_sends_back_and_never_twice(model: Model, port: int, raw: bytes) -> None:
    ports = [to for to, _ in model.process(port, raw).switched]
    assert port not in ports
    assert len(ports) == len(set(ports))


@given(models(), PORTS, frames)
def test_vlans_are_never_crossed(model: Model, port: int, sent: Frame) -> None:
    vlan = vlan_between(model, port, sent)
    for to, raw in model.process(port, bytes(sent)).switched:
        if to == WIRE:
            assert vlan_between(model, WIRE, parse(raw), to_wire=True) == vlan
        else:
            assert vlan in vlans_of(model, to)


@given(models(), PORTS, raw_frames)
def test_no_frame_into_or_out_of_a_vf_that_is_closed_or_down(
    model: Model, port: int, raw: bytes
) -> None:
    verdict = model.process(port, raw)
    shut = {v for v in VFIDS if v not in model.vfs or not model.link_up(model.vfs[v])}
    assert not shut & {to for to, _ in verdict.out}
    if port in shut:
        assert verdict.out == ()


@given(models(), PORTS, frames)
def test_known_unicast_reaches_at_most_one_port(model: Model, port: int, sent: Frame) -> None:
    verdict = model.process(port, bytes(sent))
    vlan = vlan_between(model, port, sent)
    owner = model.owners.get(sent.dst)
    if owner is not None and vlan in vlans_of(model, owner) and vlan != (0, 0):
        assert {to for to, _ in verdict.switched} <= {
            owner if model.pf.enable_loopback or port == WIRE else WIRE
        }


@given(models(), PORTS, frames)
def test_an_access_guest_never_sees_the_nics_tag(model: Model, port: int, sent: Frame) -> None:
    for to, raw in model.process(port, bytes(sent)).switched:
        vf = model.vfs.get(to)
        if vf is None or vf.access_vid is None:
            continue
        sender = model.vfs.get(port)
        pushed = sender is not None and sender.access_vid is not None
        priority = bool(sent.outer and sent.outer.vid == 0)
        # The NIC's one tag is gone: what is left is what lay inside it.
        inside = sent.tags if pushed and not priority else sent.tags[1:]
        assert parse(raw).tags == inside


@given(models(), PORTS, frames)
def test_only_outer_tags_change(model: Model, port: int, sent: Frame) -> None:
    for _, raw in model.process(port, bytes(sent)).out:
        seen = parse(raw)
        assert (seen.dst, seen.src, seen.rest) == (sent.dst, sent.src, sent.rest)
        assert abs(len(seen.tags) - len(sent.tags)) <= 1
        inner = sent.tags[1:]
        assert seen.tags[len(seen.tags) - len(inner) :] == inner


def moved(verdict: Verdict, port: int, *counters: str) -> int:
    return sum(verdict.counters.get((port, counter), 0) for counter in counters)


@given(models(), PORTS, raw_frames)
def test_every_frame_that_is_sent_counts_once(model: Model, port: int, raw: bytes) -> None:
    verdict = model.process(port, raw)
    way = "rx" if port == WIRE else "tx"
    assert moved(verdict, port, f"{way}_packets", f"{way}_dropped", f"{way}_errors") == 1
    if port != WIRE and not moved(verdict, port, "tx_packets"):
        assert verdict.out == ()
    specific = ("spoofed", "dropped_untagged", "oversize", "rate_dropped", "storm_dropped")
    if port != WIRE:
        assert moved(verdict, port, *specific) <= moved(verdict, port, "tx_dropped")


@given(models(), PORTS, raw_frames)
def test_what_leaves_counts_where_it_leaves(model: Model, port: int, raw: bytes) -> None:
    verdict = model.process(port, raw)
    for to in (WIRE, *VFIDS):
        way = "tx" if to == WIRE else "rx"
        if to == port == WIRE:
            continue
        leaving = [left for at, left in verdict.out if at == to]
        assert moved(verdict, to, f"{way}_packets") == len(leaving)
        assert moved(verdict, to, f"{way}_bytes") == sum(map(len, leaving))
    assert sum(moved(verdict, vfid, "mirrored") for vfid in VFIDS) == len(verdict.copies)


@given(models(mirrored=False), PORTS, raw_frames)
def test_without_mirrors_there_are_no_copies(model: Model, port: int, raw: bytes) -> None:
    assert model.process(port, raw).copies == ()


@given(models(), PORTS, raw_frames)
def test_mirrors_change_nothing_for_anyone_else(model: Model, port: int, raw: bytes) -> None:
    plain = [vf.model_copy(update={"mirror": ()}) for vf in model.vfs.values()]
    without = Model(
        NicPolicy(pf=model.pf, vfs=tuple(plain)),
        model.grants,
        OWN,
        model.wire_up,
        has_wire=model.has_wire,
    )
    assert model.process(port, raw).switched == without.process(port, raw).switched


@given(models(), frames)
def test_nothing_reaches_a_vf_but_what_its_flags_let_pass(model: Model, sent: Frame) -> None:
    for to, _ in model.process(WIRE, bytes(sent)).switched:
        vf = model.vfs[to]
        if sent.dst == ALL:
            assert vf.allow_bcast
        elif sent.dst == GROUP:
            assert vf.allow_mcast or GROUP in model.grants[to].groups
        else:
            assert sent.dst == OWN[to] or vf.allow_un_ucast


@given(models(), st.sampled_from(VFIDS), frames)
def test_an_honest_guest_is_the_only_source_of_its_frames(
    model: Model, vfid: int, sent: Frame
) -> None:
    vf = model.vfs.get(vfid)
    if model.process(vfid, bytes(sent)).out and vf is not None and vf.mac_anti_spoof:
        assert sent.src == OWN[vfid]


@given(models(), PORTS, st.binary(max_size=64))
def test_any_bytes_get_a_verdict(model: Model, port: int, raw: bytes) -> None:
    verdict = model.process(port, raw)
    try:
        parse(raw)
    except TruncatedError:
        assert verdict.out == ()
    assert all(by > 0 for by in verdict.counters.values())
