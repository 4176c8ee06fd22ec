"""The reference model against the contract: tagging, a test for each sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vfd.policy.frames import Tag
from vfd.policy.model import WIRE, Model
from vfd.policy.values import C_TAG, S_TAG, VfPolicy

from .nics import (
    ALL,
    ROUTER,
    access,
    c,
    dropped,
    frame,
    nic,
    reaches,
    reasons,
    s,
    send,
    service,
    tags_at,
    vf,
)

Tags = tuple[Tag, ...]


def several(vfid: int, flag: str, **rules: object) -> VfPolicy:
    """Strip with several VIDs."""
    return vf(vfid, 100, 200, **{flag: True, **rules})


def leaves_with(model: Model, tags: Tags) -> Tags:
    """The tags of VF 0's frame on the wire."""
    return tags_at(send(model, 0, frame(ROUTER, *tags)), WIRE)


def is_refused(model: Model, tags: Tags) -> bool:
    verdict = send(model, 0, frame(ROUTER, *tags))
    assert verdict.out == () or reasons(verdict) == {}
    assert verdict.out != () or reasons(verdict) == dropped(0, "spoofed")
    return verdict.out == ()


def is_given(model: Model, tags: Tags) -> Tags | None:
    """The tags that VF 0 sees of a frame from the wire; None: dropped_vlan."""
    verdict = send(model, WIRE, frame(0, *tags, src=ROUTER))
    if verdict.out:
        return tags_at(verdict, 0)
    assert reasons(verdict) == dropped(0, "dropped_vlan", "rx")
    return None


# -- Kinds of tags


@pytest.mark.parametrize(
    ("policy", "other"),
    [
        (vf(0, 100), s(100)),
        (vf(0, 100, vlan_anti_spoof=False), s(100)),
        (vf(0, 100, allow_untagged=True), s(0)),
        (access(0), s(100)),
        (access(0), s(0)),
        (service(0), s(100)),
        (service(0), s(0)),
        (several(0, "strip_ctag"), s(100)),
        (several(0, "strip_stag"), c(100)),
        (several(0, "strip_stag", allow_untagged=True), c(0)),
    ],
)
def test_in_every_mode_a_tag_of_another_kind_is_refused_from_the_guest(
    policy: VfPolicy, other: Tag
) -> None:
    assert is_refused(nic(policy), (other,))


@pytest.mark.parametrize(
    ("policy", "other"),
    [
        (vf(0, 100), s(100)),
        (vf(0, 100, allow_untagged=True), s(0)),
        (access(0), s(100)),
        (service(0), c(100)),
        (service(0, allow_untagged=True), c(0)),
        (several(0, "strip_ctag"), s(100)),
        (several(0, "strip_stag"), c(100)),
    ],
)
def test_in_every_mode_a_tag_of_another_kind_is_refused_to_the_guest(
    policy: VfPolicy, other: Tag
) -> None:
    assert is_given(nic(policy), (other,)) is None


def test_the_kind_is_the_pfs_tpid_under_strip_stag_else_a_c_tag() -> None:
    for tpid in (C_TAG, S_TAG):
        assert leaves_with(nic(service(0), tpid=tpid), ()) == (Tag(tpid, 100),)
        assert leaves_with(nic(access(0), tpid=tpid), ()) == (Tag(C_TAG, 100),)


# -- Trunk


@pytest.mark.parametrize("tags", [(c(100),), (c(200, pcp=7, dei=True), c(9)), (c(100), s(5))])
def test_trunk_the_guest_tags_and_frames_keep_their_tags(tags: Tags) -> None:
    model = nic(vf(0, 100, 200))
    assert leaves_with(model, tags) == tags
    assert is_given(model, tags) == tags


def test_trunk_with_vlan_anti_spoof_the_outer_vid_must_be_in_vlans() -> None:
    model = nic(vf(0, 100))
    for tags in [(c(200),), (c(4095),), (c(200), c(100))]:
        assert is_refused(model, tags)


def test_trunk_without_vlan_anti_spoof_any_vid_passes() -> None:
    model = nic(vf(0, 100, vlan_anti_spoof=False))
    for vid in (1, 100, 200, 4094):
        assert leaves_with(model, (c(vid),)) == (c(vid),)


def test_trunk_vid_4095_is_reserved() -> None:
    assert is_refused(nic(vf(0, 100, vlan_anti_spoof=False)), (c(4095),))


def test_trunk_untagged_needs_allow_untagged() -> None:
    assert leaves_with(nic(vf(0, 100, allow_untagged=True)), ()) == ()
    assert reasons(send(nic(vf(0, 100)), 0, frame(1))) == dropped(0, "dropped_untagged")


def test_trunk_a_priority_tag_counts_as_untagged_and_is_kept() -> None:
    model = nic(vf(0, 100, allow_untagged=True))
    tags = (c(0, pcp=6, dei=True),)
    assert leaves_with(model, tags) == tags
    assert is_given(model, tags) == tags


@pytest.mark.parametrize("tpid", ["9100", "9200"])
def test_other_tpids_are_untagged_frames(tpid: str) -> None:
    sent = frame(ROUTER, rest=bytes.fromhex(tpid) + bytes(46))
    assert reaches(nic(vf(0)), 0, sent) == {WIRE}
    assert reasons(send(nic(vf(0, 100)), 0, sent)) == dropped(0, "dropped_untagged")


# -- Access


def test_access_the_nic_inserts_its_tag_and_removes_it() -> None:
    model = nic(access(0))
    assert leaves_with(model, ()) == (c(100),)
    assert is_given(model, (c(100, pcp=3),)) == ()
    assert is_given(model, (c(200),)) is None


@pytest.mark.parametrize("vid", [1, 100, 4095])
@pytest.mark.parametrize("vlan_anti_spoof", [True, False])
def test_access_a_guest_frame_that_is_tagged_is_refused(vid: int, vlan_anti_spoof: bool) -> None:
    assert is_refused(nic(access(0, vlan_anti_spoof=vlan_anti_spoof)), (c(vid),))


def test_access_needs_no_allow_untagged_to_send_but_to_be_given() -> None:
    assert is_given(nic(access(0)), ()) is None
    assert is_given(nic(access(0, allow_untagged=True)), ()) == ()
    assert leaves_with(nic(access(0, allow_untagged=True)), ()) == (c(100),)


def test_access_strips_a_priority_tag_too() -> None:
    assert is_given(nic(access(0, allow_untagged=True)), (c(0, pcp=5),)) == ()


def test_access_leaves_inner_tags_alone() -> None:
    assert is_given(nic(access(0)), (c(100), c(7), s(8))) == (c(7), s(8))


# -- Service access


@pytest.mark.parametrize("inner", [(c(100),), (c(7, pcp=2, dei=True),), (c(4095),), (c(7), s(8))])
def test_service_access_pushes_its_tag_outside_what_the_guest_sent(inner: Tags) -> None:
    model = nic(service(0))
    assert leaves_with(model, inner) == (s(100), *inner)
    assert is_given(model, (s(100), *inner)) == inner


def test_service_access_an_untagged_frame_leaves_with_one_tag() -> None:
    model = nic(service(0))
    assert leaves_with(model, ()) == (s(100),)
    assert is_given(model, (s(100),)) == ()


def test_service_access_with_tpid_8100_stacks_c_tags() -> None:
    model = nic(service(0), tpid=C_TAG)
    assert leaves_with(model, (c(7),)) == (c(100), c(7))
    assert is_given(model, (c(100), c(7))) == (c(7),)


@pytest.mark.parametrize("tpid", [C_TAG, S_TAG])
@pytest.mark.parametrize("vid", [0, 5, 100])
def test_service_access_a_guest_frame_whose_outer_tpid_is_88a8_is_refused(
    tpid: int, vid: int
) -> None:
    assert is_refused(nic(service(0), tpid=tpid), (s(vid),))


def test_vlan_anti_spoof_has_nothing_to_check_in_either_access_mode() -> None:
    for mode in (access, service):
        strict, loose = nic(mode(0)), nic(mode(0, vlan_anti_spoof=False))
        for tags in [(), (c(7),), (c(0),), (s(100),), (c(100),)]:
            assert send(strict, 0, frame(1, *tags)) == send(loose, 0, frame(1, *tags))


# -- Strip with several VIDs


def test_several_vids_the_guest_names_one_and_rx_removes_it() -> None:
    for flag, tag in (("strip_ctag", c), ("strip_stag", s)):
        model = nic(several(0, flag))
        for vid in (100, 200):
            assert leaves_with(model, (tag(vid),)) == (tag(vid),)
            assert is_given(model, (tag(vid), c(7))) == (c(7),)
        assert is_refused(model, (tag(300),))
        assert is_given(model, (tag(300),)) is None


def test_several_vids_untagged_needs_allow_untagged() -> None:
    assert reasons(send(nic(several(0, "strip_stag")), 0, frame(1))) == dropped(
        0, "dropped_untagged"
    )
    assert leaves_with(nic(several(0, "strip_stag", allow_untagged=True)), ()) == ()
    assert is_given(nic(several(0, "strip_stag", allow_untagged=True)), ()) == ()


# -- PCP and DEI


@pytest.mark.parametrize(("mode", "tag"), [(access, c), (service, s)])
def test_pcp_and_dei_of_an_inserted_tag_come_from_the_guests_priority_tag(
    mode: Callable[[int], VfPolicy], tag: Callable[..., Tag]
) -> None:
    model = nic(mode(0))
    assert leaves_with(model, (c(0, pcp=5, dei=True),)) == (tag(100, pcp=5, dei=True),)
    assert leaves_with(model, (c(0),)) == (tag(100),)


def test_pcp_of_an_inserted_tag_is_else_the_vfs() -> None:
    assert leaves_with(nic(service(0)), (c(7, pcp=6, dei=True),))[0] == s(100)
    model = nic(service(0, pcp=4))
    assert leaves_with(model, (c(7, pcp=6, dei=True),)) == (s(100, pcp=4), c(7, pcp=6, dei=True))
    assert leaves_with(model, ()) == (s(100, pcp=4),)
    assert leaves_with(model, (c(0, pcp=1),)) == (s(100, pcp=1),)
    assert leaves_with(nic(access(0, pcp=7)), ()) == (c(100, pcp=7),)
    assert leaves_with(nic(several(0, "strip_ctag", pcp=7)), (c(100),)) == (c(100),)


# -- Veiled tags

VEILED = ((c(0), c(100)), (c(0), c(300)), (c(0), s(100)), (c(0, pcp=5), c(0)), (c(0), c(0), c(100)))
S_VEILED = tuple((s(0), *tags[1:]) for tags in VEILED)


@pytest.mark.parametrize("tags", VEILED)
@pytest.mark.parametrize("vlan_anti_spoof", [True, False])
def test_a_veiled_tag_is_refused_both_ways(tags: Tags, vlan_anti_spoof: bool) -> None:
    rules = {"allow_untagged": True, "vlan_anti_spoof": vlan_anti_spoof}
    for policy in (vf(0, 100, **rules), access(0, **rules), several(0, "strip_ctag", **rules)):
        assert reasons(send(nic(policy), 0, frame(ROUTER, *tags))) == dropped(0, "spoofed")
        assert is_given(nic(policy), tags) is None
        assert is_given(nic(policy), tags[:1]) is not None


def test_a_veiled_tag_is_spoofed_where_untagged_frames_are_not_allowed() -> None:
    assert reasons(send(nic(vf(0, 100)), 0, frame(1, c(0), c(100)))) == dropped(0, "spoofed")


@pytest.mark.parametrize("tags", S_VEILED)
def test_a_veiled_tag_is_refused_where_tags_are_s_tags(tags: Tags) -> None:
    model = nic(several(0, "strip_stag", allow_untagged=True))
    assert reasons(send(model, 0, frame(ROUTER, *tags))) == dropped(0, "spoofed")
    assert is_given(model, tags) is None


@pytest.mark.parametrize("tags", S_VEILED)
def test_in_the_place_of_a_service_tag_a_veiled_one_is_refused(tags: Tags) -> None:
    assert is_given(nic(service(0, allow_untagged=True)), tags) is None
    assert is_given(nic(service(0, allow_untagged=True)), (s(100), *tags)) == tags


def test_under_service_access_the_nics_tag_takes_the_place_of_the_priority_tag_alone() -> None:
    model = nic(service(0))
    assert leaves_with(model, (c(0, pcp=3), c(7))) == (s(100, pcp=3), c(7))
    assert leaves_with(model, (c(0), c(0), c(7))) == (s(100), c(0), c(7))
    assert leaves_with(model, (c(0), s(7))) == (s(100), s(7))


def test_a_tag_that_is_cut_off_is_veiled_for_padding_completes_it() -> None:
    sent = frame(ROUTER, c(0), rest=bytes.fromhex("810001"))
    assert reasons(send(nic(vf(0, 100, allow_untagged=True)), 0, sent)) == dropped(0, "spoofed")
    sent = frame(ROUTER, c(100), rest=bytes.fromhex("810001"))
    assert reaches(nic(vf(0, 100)), 0, sent) == {WIRE}


# -- VLANs


def test_c_tag_100_and_s_tag_100_are_two_vlans() -> None:
    model = nic(access(0), service(1), vf(2, 100), several(3, "strip_stag"))
    assert reaches(model, 0, frame(ALL)) == {WIRE, 2}
    assert reaches(model, 1, frame(ALL, src=1)) == {WIRE, 3}
    assert reaches(model, WIRE, frame(ALL, c(100), src=ROUTER)) == {0, 2}
    assert reaches(model, WIRE, frame(ALL, s(100), src=ROUTER)) == {1, 3}
    assert reaches(model, 0, frame(1)) == {WIRE}


def test_they_are_one_vlan_if_the_pfs_service_tags_are_c_tags() -> None:
    model = nic(access(0), service(1), tpid=C_TAG)
    assert reaches(model, 0, frame(1)) == {1}
    assert reaches(model, 1, frame(0, src=1)) == {0}


# -- docs/concepts.md


TRUNK = (100, 200)


@pytest.mark.parametrize(
    ("policy", "sent", "on_the_wire", "given"),
    [
        (vf(0, *TRUNK), (c(100),), (c(100),), (c(100),)),
        (vf(0, *TRUNK, allow_untagged=True), (), (), ()),
        (access(0), (), (c(100),), ()),
        (access(0), (c(0, pcp=5),), (c(100, pcp=5),), ()),
        (service(0), (), (s(100),), ()),
        (service(0), (c(7),), (s(100), c(7)), (c(7),)),
        (vf(0, *TRUNK, strip_ctag=True), (c(100),), (c(100),), ()),
    ],
)
def test_the_worked_examples_of_the_concepts_hold(
    policy: VfPolicy, sent: Tags, on_the_wire: Tags, given: Tags
) -> None:
    assert leaves_with(nic(policy), sent) == on_the_wire
    assert is_given(nic(policy), on_the_wire) == given
