"""The reference model against the contract: switching and mirroring, a test for each sentence."""

from __future__ import annotations

import pytest

from vfd.policy.model import WIRE, Model
from vfd.policy.requests import Grants
from vfd.policy.values import C_TAG, Mirror

from .nics import (
    ALL,
    GROUP,
    ROUTER,
    STRANGER,
    access,
    c,
    dropped,
    frame,
    mac,
    nic,
    reaches,
    reasons,
    s,
    send,
    service,
    vf,
)

TAKES_UNKNOWN = {"allow_un_ucast": True}

# -- Switching --------------------------------------------------------------------------------


def test_known_unicast_from_a_vf_goes_to_its_owner_with_loopback() -> None:
    assert reaches(nic(vf(0), vf(1), vf(2, **TAKES_UNKNOWN)), 0, frame(1)) == {1}


def test_known_unicast_from_a_vf_goes_to_the_wire_without_loopback() -> None:
    assert reaches(nic(vf(0), vf(1), enable_loopback=False), 0, frame(1)) == {WIRE}


def test_known_unicast_to_an_owner_that_is_down_does_not_go_to_the_wire() -> None:
    verdict = send(nic(vf(0), vf(1, link_status="off")), 0, frame(1))
    assert verdict.out == ()
    assert reasons(verdict) == dropped(1, way="rx")
    assert verdict.counters[0, "tx_packets"] == 1


def test_unknown_unicast_from_a_vf_goes_to_the_wire_and_to_vfs_that_take_it() -> None:
    vfs = (vf(0, **TAKES_UNKNOWN), vf(1, **TAKES_UNKNOWN), vf(2))
    assert reaches(nic(*vfs), 0, frame(STRANGER)) == {WIRE, 1}
    assert reaches(nic(*vfs, enable_loopback=False), 0, frame(STRANGER)) == {WIRE}


@pytest.mark.parametrize("dst", [ALL, GROUP, "01:80:c2:00:00:02", "01:80:c2:00:00:0e"])
def test_broadcast_and_multicast_from_a_vf_go_to_the_wire_and_every_other_vf(dst: str) -> None:
    vfs = (vf(0), vf(1), vf(2), vf(3, allow_bcast=False, allow_mcast=False))
    assert reaches(nic(*vfs), 0, frame(dst)) == {WIRE, 1, 2}
    assert reaches(nic(*vfs, enable_loopback=False), 0, frame(dst)) == {WIRE}


@pytest.mark.parametrize("loopback", [True, False])
def test_from_the_wire_to_the_owner_or_to_all_that_take_it(loopback: bool) -> None:
    model = nic(vf(0), vf(1), vf(2, **TAKES_UNKNOWN), enable_loopback=loopback)
    assert reaches(model, WIRE, frame(1, src=ROUTER)) == {1}
    assert reaches(model, WIRE, frame(ALL, src=ROUTER)) == {0, 1, 2}
    assert reaches(model, WIRE, frame(GROUP, src=ROUTER)) == {0, 1, 2}
    assert reaches(model, WIRE, frame(STRANGER, src=ROUTER)) == {2}


def test_never_back_to_the_port_it_came_from() -> None:
    model = nic(vf(0, **TAKES_UNKNOWN), vf(1))
    assert reaches(model, 0, frame(0)) == set()
    assert reaches(model, 0, frame(ALL)) == {WIRE, 1}
    assert reaches(model, WIRE, frame(ROUTER, src=ROUTER)) == {0}


def test_a_frame_to_its_senders_own_mac_counts_as_sent() -> None:
    verdict = send(nic(vf(0)), 0, frame(0))
    assert reasons(verdict) == {}
    assert verdict.counters[0, "tx_packets"] == 1
    assert reaches(nic(vf(0), enable_loopback=False), 0, frame(0)) == {WIRE}


def test_vlans_are_never_crossed() -> None:
    model = nic(access(0, 100), access(1, 100), access(2, 200), vf(3, 100, 200), vf(4))
    assert reaches(model, 0, frame(ALL)) == {WIRE, 1, 3}
    assert reaches(model, 3, frame(ALL, c(200), src=3)) == {WIRE, 2}
    assert reaches(model, 4, frame(ALL, src=4)) == {WIRE}
    assert reaches(model, 0, frame(2)) == {WIRE}


def test_a_mac_is_known_in_every_vlan_of_its_vf_and_in_no_other() -> None:
    model = nic(vf(0, 100, 200, allow_untagged=True), vf(1, 100, 200, 300, allow_untagged=True))
    for tags in [(c(100),), (c(200),), (), (c(0),)]:
        assert reaches(model, 1, frame(0, *tags, src=1)) == {0}
    assert reaches(model, 1, frame(0, c(300), src=1)) == {WIRE}


def test_a_mac_in_a_vlan_that_is_not_its_owners_is_unknown_there() -> None:
    model = nic(access(0, 100), access(1, 200), access(2, 100, **TAKES_UNKNOWN))
    verdict = send(model, 0, frame(1))
    assert {port for port, _ in verdict.out} == {WIRE, 2}
    assert reasons(verdict) == dropped(1, "dropped_vlan", "rx")


def test_without_loopback_a_vfs_frames_count_at_no_other_vf() -> None:
    model = nic(access(0, 100), access(1, 200), enable_loopback=False)
    assert reasons(send(model, 0, frame(1))) == {}


def test_a_vf_refuses_no_frame_of_its_own() -> None:
    model = nic(vf(0, 100, vlan_anti_spoof=False))
    assert reasons(send(model, 0, frame(0, c(200)))) == {}


def test_the_table_does_not_learn() -> None:
    model = nic(vf(0, mac_anti_spoof=False), vf(1))
    send(model, 0, frame(ALL, src=STRANGER))
    send(model, WIRE, frame(ALL, src=1))
    assert reaches(model, 1, frame(STRANGER, src=1)) == {WIRE}
    assert reaches(model, 0, frame(1)) == {1}


def test_a_closed_vf_is_given_nothing_and_owns_nothing() -> None:
    model = nic(vf(0))
    verdict = send(model, 0, frame(1))
    assert {port for port, _ in verdict.out} == {WIRE}
    assert reaches(model, WIRE, frame(ALL, src=ROUTER)) == {0}
    assert reaches(model, WIRE, frame(1, src=ROUTER)) == set()


def test_the_pfs_own_promiscuous_mode_moves_no_frame() -> None:
    for dst in (1, ALL, STRANGER):
        plain, promiscuous = nic(vf(0), vf(1)), nic(vf(0), vf(1), promiscuous=True)
        assert send(plain, 0, frame(dst)) == send(promiscuous, 0, frame(dst))


def test_wire_down_its_frames_are_lost_and_counted_there() -> None:
    model = nic(vf(0, link_status="on"), vf(1, link_status="on"), wire_up=False)
    verdict = send(model, 0, frame(ALL))
    assert {port for port, _ in verdict.out} == {1}
    assert reasons(verdict) == {(WIRE, "tx_dropped"): 1}
    assert send(model, WIRE, frame(0, src=ROUTER)).counters == {(WIRE, "rx_dropped"): 1}


def test_without_a_wire_what_goes_there_is_the_vfs_tx_and_nothing_else() -> None:
    verdict = send(nic(vf(0), has_wire=False), 0, frame(ROUTER))
    assert verdict.out == ()
    assert set(verdict.counters) == {(0, "tx_packets"), (0, "tx_bytes")}


# -- Mirroring --------------------------------------------------------------------------------


def copies(model: Model, port: int, sent: object) -> list[int]:
    return [to for to, _ in send(model, port, sent).copies]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("direction", "sent", "given"), [("in", 0, 1), ("out", 1, 0), ("all", 1, 1)]
)
def test_a_mirror_copies_what_is_given_sent_or_both(direction: str, sent: int, given: int) -> None:
    model = nic(vf(0, mirror=(Mirror(target=2, direction=direction),)), vf(1), vf(2, 900))
    assert len(copies(model, 0, frame(1))) == sent
    assert len(copies(model, 1, frame(0, src=1))) == given
    assert len(copies(model, WIRE, frame(0, src=ROUTER))) == given
    assert copies(model, WIRE, frame(1, src=ROUTER)) == []


def test_tx_7_the_copy_is_of_the_frame_as_it_now_is_with_its_tags() -> None:
    source = service(0, mirror=(Mirror(target=1),))
    verdict = send(nic(source, access(1)), 0, frame(ROUTER, c(7)))
    assert verdict.copies == ((1, bytes(frame(ROUTER, s(100), c(7)))),)


def test_a_target_receives_copies_whatever_its_own_filters_say() -> None:
    deaf = vf(1, 900, allow_bcast=False, allow_mcast=False)
    model = nic(access(0, mirror=(Mirror(target=1),)), deaf)
    for dst in (ALL, GROUP, ROUTER):
        assert copies(model, 0, frame(dst)) == [1]


def test_what_tx_refuses_is_not_copied() -> None:
    model = nic(access(0, mirror=(Mirror(target=1),)), vf(1))
    for refused in (frame(ALL, src=STRANGER), frame(ALL, c(7)), frame(ALL, rest=bytes(9000))):
        assert copies(model, 0, refused) == []
    assert send(model, 0, frame(ALL), limited="rate_dropped").copies == ()


def test_what_rx_refuses_is_not_copied() -> None:
    model = nic(access(0, allow_bcast=False, mirror=(Mirror(target=1),)), vf(1))
    assert copies(model, WIRE, frame(ALL, c(100), src=ROUTER)) == []
    assert copies(model, WIRE, frame(0, c(200), src=ROUTER)) == []


def test_what_the_switch_takes_nowhere_is_copied() -> None:
    assert copies(nic(vf(0, mirror=(Mirror(target=1),)), vf(1)), 0, frame(0)) == [1]


def test_with_vlans_only_frames_in_those_vlans_are_copied() -> None:
    some = (Mirror(target=1, vlans=(100, 300)),)
    model = nic(vf(0, 100, 200, 300, allow_untagged=True, mirror=some), vf(1, 900))
    for vid, copied in ((100, [1]), (200, []), (300, [1]), (0, [])):
        assert copies(model, 0, frame(ALL, c(vid))) == copied
        assert copies(model, WIRE, frame(ALL, c(vid), src=ROUTER)) == copied
    assert copies(model, 0, frame(ALL)) == []


def test_a_mirrors_vlan_is_the_nics_tag_not_the_guests() -> None:
    for mode, pf in ((access, {}), (service, {}), (service, {"tpid": C_TAG})):
        model = nic(mode(0, 100, mirror=(Mirror(target=1, vlans=(100,)),)), vf(1, 900), **pf)  # type: ignore[arg-type]
        assert copies(model, 0, frame(ALL)) == [1]
    model = nic(service(0, 100, mirror=(Mirror(target=1, vlans=(7,)),)), vf(1, 900))
    assert copies(model, 0, frame(ALL, c(7))) == []


def test_a_copy_counts_as_rx_of_its_target_and_as_mirrored_of_its_source() -> None:
    verdict = send(nic(access(0, mirror=(Mirror(target=1),)), vf(1, 900)), 0, frame(ROUTER))
    assert reasons(verdict) == {(0, "mirrored"): 1}
    assert verdict.counters[1, "rx_packets"] == 1
    assert verdict.counters[1, "rx_bytes"] == len(bytes(frame(ROUTER, c(100))))


def test_a_target_that_is_down_or_closed_gets_no_copy_and_nothing_counts() -> None:
    both = (Mirror(target=1), Mirror(target=2), Mirror(target=3))
    model = nic(vf(0, mirror=both), vf(1, link_status="off"), vf(3, 900))
    verdict = send(model, 0, frame(ROUTER))
    assert [to for to, _ in verdict.copies] == [3]
    assert reasons(verdict) == {(0, "mirrored"): 1}


def test_several_mirrors_copy_to_each_target_once() -> None:
    mirrors = (
        Mirror(target=2, direction="out"),
        Mirror(target=1),
        Mirror(target=1, direction="out"),
        Mirror(target=3, direction="in"),
    )
    model = nic(vf(0, mirror=mirrors), vf(1, 900), vf(2, 900), vf(3, 900))
    assert copies(model, 0, frame(ROUTER)) == [1, 2]
    assert copies(model, WIRE, frame(0, src=ROUTER)) == [1, 3]


def test_a_copy_is_not_mirrored_again() -> None:
    ring = (vf(0, 100, mirror=(Mirror(target=1),)), vf(1, 200, mirror=(Mirror(target=0),)))
    model = nic(*ring, vf(2, 100))
    assert copies(model, WIRE, frame(0, c(100), src=ROUTER)) == [1]
    assert copies(model, 1, frame(ALL, c(200), src=1)) == [0]


def test_a_frame_between_two_mirrored_vfs_is_copied_twice() -> None:
    model = nic(vf(0, mirror=(Mirror(target=2),)), vf(1, mirror=(Mirror(target=2),)), vf(2, 900))
    verdict = send(model, 0, frame(1))
    assert [to for to, _ in verdict.copies] == [2, 2]
    assert verdict.counters[0, "mirrored"] == verdict.counters[1, "mirrored"] == 1
    assert verdict.counters[2, "rx_packets"] == 2


def test_a_target_that_is_also_a_receiver_gets_frame_and_copy() -> None:
    model = nic(vf(0, mirror=(Mirror(target=1, direction="out"),)), vf(1))
    assert send(model, 0, frame(1)).out == ((1, bytes(frame(1))),) * 2


def test_a_mirror_of_rx_copies_to_the_sender_too() -> None:
    model = nic(vf(0), vf(1, mirror=(Mirror(target=0, direction="in"),)))
    assert send(model, 0, frame(1)).out == ((0, bytes(frame(1))), (1, bytes(frame(1))))


def test_a_vf_is_no_mirror_of_itself() -> None:
    assert copies(nic(vf(0, mirror=(Mirror(target=0),))), 0, frame(ALL)) == []


# -- The verdict


def test_the_verdict_lists_ports_in_order() -> None:
    model = nic(vf(2), vf(0, mirror=(Mirror(target=1),)), vf(1))
    assert [port for port, _ in send(model, 0, frame(ALL)).out] == [WIRE, 1, 1, 2]


def test_a_grant_to_a_vf_that_was_then_configured_for_another_is_void() -> None:
    stale = {0: Grants(macs=frozenset({ROUTER}))}
    model = nic(vf(0), vf(1, vm_mac=ROUTER), grants=stale)
    assert reasons(send(model, 0, frame(ALL, src=ROUTER))) == dropped(0, "spoofed")
    assert reaches(model, WIRE, frame(ROUTER, src=STRANGER)) == {1}
    assert reaches(model, 0, frame(ROUTER, src=mac(0))) == {1}
