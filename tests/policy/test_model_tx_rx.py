"""The reference model against the contract: what a guest sends, and what it is given."""

from __future__ import annotations

import pytest

from vfd.policy.frames import Tag
from vfd.policy.model import WIRE, Gso
from vfd.policy.requests import Grants
from vfd.policy.values import VfPolicy

from .nics import (
    ALL,
    GROUP,
    OWN,
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
    tags_at,
    vf,
)

# -- From the guest: Tx -----------------------------------------------------------------------


def test_tx_1_a_closed_vf_sends_nothing() -> None:
    verdict = send(nic(vf(1)), 0, frame(1))
    assert verdict.out == ()
    assert verdict.counters == dropped(0)


@pytest.mark.parametrize(
    ("link_status", "wire_up", "has_wire", "passes"),
    [
        ("on", True, True, True),
        ("on", False, True, True),
        ("off", True, True, False),
        ("off", True, False, False),
        ("auto", True, True, True),
        ("auto", False, True, False),
        ("auto", False, False, True),
    ],
)
def test_tx_1_and_rx_1_a_link_that_is_down_passes_nothing(
    link_status: str, wire_up: bool, has_wire: bool, passes: bool
) -> None:
    model = nic(vf(0, link_status=link_status), vf(1, link_status="on"))
    model = nic(*model.vfs.values(), wire_up=wire_up, has_wire=has_wire)
    sent, given = send(model, 0, frame(1)), send(model, 1, frame(0, src=1))
    assert sent.out == (((1, bytes(frame(1))),) if passes else ())
    assert reasons(sent) == ({} if passes else dropped(0))
    assert given.out == (((0, bytes(frame(0, src=1))),) if passes else ())
    assert reasons(given) == ({} if passes else dropped(0, way="rx"))


@pytest.mark.parametrize("src", [GROUP, ALL, "03:00:00:00:00:01", "00:00:00:00:00:00"])
@pytest.mark.parametrize("mac_anti_spoof", [True, False])
def test_tx_2_a_multicast_or_zero_source_is_spoofed(src: str, mac_anti_spoof: bool) -> None:
    verdict = send(nic(vf(0, mac_anti_spoof=mac_anti_spoof), vf(1)), 0, frame(1, src=src))
    assert verdict.out == ()
    assert verdict.counters == dropped(0, "spoofed")


@pytest.mark.parametrize("tags", [(), (c(100),), (c(100), s(7)), (c(0),), (c(100),) * 5])
def test_tx_2_a_mac_control_frame_is_spoofed_and_one_from_the_wire_ends_there(
    tags: tuple[Tag, ...],
) -> None:
    pause = bytes.fromhex("88080001ffff") + bytes(42)
    model = nic(vf(0, 100, allow_untagged=True, mac_anti_spoof=False, allow_un_ucast=True))
    for dst in ("01:80:c2:00:00:01", ROUTER, ALL, 0):
        sent = frame(dst, *tags, rest=pause)
        assert send(model, 0, sent).counters == dropped(0, "spoofed")
        verdict = send(model, WIRE, frame(dst, *tags, src=ROUTER, rest=pause))
        assert not verdict.out
        length = len(bytes(sent))
        assert verdict.counters == {(WIRE, "rx_packets"): 1, (WIRE, "rx_bytes"): length}


def test_tx_3_a_source_that_is_none_of_the_vfs_macs_is_spoofed() -> None:
    model = nic(vf(0), vf(1))
    for src in (STRANGER, mac(1)):
        verdict = send(model, 0, frame(1, src=src))
        assert verdict.out == ()
        assert verdict.counters == dropped(0, "spoofed")


def test_tx_3_without_mac_anti_spoof_any_unicast_source_passes() -> None:
    model = nic(vf(0, mac_anti_spoof=False), vf(1))
    assert reaches(model, 0, frame(1, src=STRANGER)) == {1}
    assert reaches(model, 0, frame(ALL, src=mac(1))) == {WIRE, 1}


@pytest.mark.parametrize(
    ("rules", "grants", "owned", "foreign"),
    [
        ({}, Grants(), [OWN[0]], [STRANGER]),
        ({"vm_mac": ROUTER}, Grants(), [ROUTER], [OWN[0]]),
        ({}, Grants(default_mac=ROUTER), [ROUTER], [OWN[0]]),
        ({"vm_mac": STRANGER}, Grants(default_mac=ROUTER), [STRANGER], [OWN[0], ROUTER]),
        ({"vm_mac": OWN[0], "macs": (ROUTER,)}, Grants(), [OWN[0], ROUTER], [STRANGER]),
        ({"macs": (STRANGER, ROUTER)}, Grants(), [STRANGER, ROUTER], [OWN[0]]),
        ({"macs": (STRANGER,)}, Grants(default_mac=ROUTER), [STRANGER], [OWN[0], ROUTER]),
        ({}, Grants(macs=frozenset({ROUTER})), [OWN[0], ROUTER], [STRANGER]),
    ],
    ids=[
        "own",
        "forced",
        "granted default",
        "forced over granted",
        "listed",
        "first",
        "first over granted",
        "granted",
    ],
)
def test_tx_3_a_vfs_macs_are_default_listed_and_granted(
    rules: dict[str, str], grants: Grants, owned: list[str], foreign: list[str]
) -> None:
    model = nic(vf(0, **rules), vf(1), grants={0: grants})
    for src in owned:
        assert reaches(model, 0, frame(1, src=src)) == {1}
        assert reaches(model, 1, frame(src, src=1)) == {0}
    for src in foreign:
        assert reasons(send(model, 0, frame(1, src=src))) == dropped(0, "spoofed")
        assert reaches(model, 1, frame(src, src=1)) == {WIRE}


def test_tx_4_a_frame_that_tagging_refuses_is_spoofed() -> None:
    assert send(nic(vf(0, 100)), 0, frame(1, c(200))).counters == dropped(0, "spoofed")


@pytest.mark.parametrize("tags", [(), (c(0),)])
@pytest.mark.parametrize("vlan_anti_spoof", [True, False])
def test_tx_4_untagged_without_allow_untagged_is_dropped_untagged(
    tags: tuple[Tag, ...], vlan_anti_spoof: bool
) -> None:
    model = nic(vf(0, 100, vlan_anti_spoof=vlan_anti_spoof))
    assert send(model, 0, frame(1, *tags)).counters == dropped(0, "dropped_untagged")


@pytest.mark.parametrize(
    ("policy", "tags"),
    [
        (vf(0, mtu=100), ()),
        (vf(0, 100, mtu=100), (c(100),)),
        (vf(0, mtu=100), (c(0),)),
        (access(0, mtu=100), ()),
        (access(0, mtu=100), (c(0),)),
        (service(0, mtu=100), ()),
        (service(0, mtu=100), (c(7),)),
    ],
    ids=["untagged", "trunk", "priority", "access", "access priority", "service", "QinQ"],
)
def test_tx_5_a_frame_larger_than_the_mtu_is_oversize(
    policy: VfPolicy, tags: tuple[Tag, ...]
) -> None:
    model = nic(policy)
    fits = frame(ROUTER, *tags, rest=b"\x08\x00" + bytes(100))
    large = frame(ROUTER, *tags, rest=b"\x08\x00" + bytes(101))
    assert reaches(model, 0, fits) == {WIRE}
    verdict = send(model, 0, large)
    assert verdict.out == ()
    assert verdict.counters == dropped(0, "oversize")


def test_tx_5_an_inner_tag_of_the_guest_is_its_payload() -> None:
    model = nic(vf(0, 100, mtu=100))
    assert reaches(model, 0, frame(ROUTER, c(100), c(1), rest=bytes(98))) == {WIRE}
    assert reaches(model, 0, frame(ROUTER, c(100), c(1), rest=bytes(99))) == set()


@pytest.mark.parametrize(
    ("mtu", "default", "pf", "granted", "in_force"),
    [
        (None, 1500, 9000, None, 1500),
        (None, 9000, 1500, None, 1500),
        (1400, 1500, 9000, None, 1400),
        (1400, 1500, 9000, 4000, 4000),
        (1400, 1500, 3000, 4000, 3000),
    ],
)
def test_tx_5_the_mtu_in_force(
    mtu: int | None, default: int, pf: int, granted: int | None, in_force: int
) -> None:
    model = nic(vf(0, mtu=mtu), grants={0: Grants(mtu=granted)}, default_mtu=default, mtu=pf)
    assert reaches(model, 0, frame(ROUTER, rest=b"\x08\x00" + bytes(in_force))) == {WIRE}
    assert reaches(model, 0, frame(ROUTER, rest=b"\x08\x00" + bytes(in_force + 1))) == set()


def test_tx_5_segments_are_measured_not_the_buffer_that_holds_them() -> None:
    model = nic(vf(0, mtu=100))
    buffer = frame(ROUTER, rest=b"\x08\x00" + bytes(40 + 600))
    assert send(model, 0, buffer, gso=Gso(size=60, header=54)).switched
    assert reasons(send(model, 0, buffer, gso=Gso(size=61, header=54))) == dropped(
        0, "oversize", by=10
    )


@pytest.mark.parametrize("reason", ["rate_dropped", "storm_dropped"])
def test_tx_6_what_a_limit_drops_is_counted_as_that(reason: str) -> None:
    verdict = send(nic(vf(0), vf(1)), 0, frame(ALL), limited=reason)
    assert verdict.out == ()
    assert verdict.counters == dropped(0, reason)


def test_tx_6_comes_after_what_the_policy_refuses() -> None:
    verdict = send(nic(vf(0)), 0, frame(ALL, src=STRANGER), limited="rate_dropped")
    assert verdict.counters == dropped(0, "spoofed")


def test_tx_6_broadcast_and_multicast_count_as_storm() -> None:
    model = nic(vf(0), vf(1))
    assert model.counts_as_storm(0, bytes(frame(ALL)))
    assert model.counts_as_storm(0, bytes(frame(GROUP)))
    assert not model.counts_as_storm(0, bytes(frame(1)))


def test_tx_6_unknown_unicast_counts_as_storm_where_it_may_be_flooded() -> None:
    taker = vf(1, allow_un_ucast=True)
    sent = bytes(frame(ROUTER))
    assert nic(vf(0), taker).counts_as_storm(0, sent)
    assert not nic(vf(0), vf(1)).counts_as_storm(0, sent)
    assert not nic(vf(0, allow_un_ucast=True), vf(1)).counts_as_storm(0, sent)
    assert not nic(vf(0), taker, enable_loopback=False).counts_as_storm(0, sent)


def test_tx_6_known_unicast_never_counts_as_storm() -> None:
    taker = vf(2, allow_un_ucast=True)
    assert not nic(vf(0), vf(1), taker).counts_as_storm(0, bytes(frame(1)))
    assert not nic(access(0), access(1), taker).counts_as_storm(0, bytes(frame(1)))


@pytest.mark.parametrize("raw", [b"", bytes(13), bytes(frame(1, c(100)))[:17]])
def test_a_truncated_frame_is_an_error(raw: bytes) -> None:
    model = nic(vf(0, 100, mac_anti_spoof=False), vf(1))
    assert model.process(0, raw).counters == {(0, "tx_errors"): 1}
    assert model.process(WIRE, raw).counters == {(WIRE, "rx_errors"): 1}
    assert model.process(0, raw).out == model.process(WIRE, raw).out == ()


# -- To the guest: Rx -------------------------------------------------------------------------


def test_rx_1_a_link_that_is_down_is_offered_no_flood() -> None:
    verdict = send(nic(vf(0), vf(1, link_status="off")), WIRE, frame(ALL, src=ROUTER))
    assert [port for port, _ in verdict.out] == [0]
    assert reasons(verdict) == {}


@pytest.mark.parametrize("tags", [(c(200),), (), (s(100),), (c(0),), (s(0),), (c(4095),)])
def test_rx_2_a_unicast_frame_to_a_vf_in_no_vlan_of_it_is_dropped_vlan(
    tags: tuple[Tag, ...],
) -> None:
    verdict = send(nic(vf(0, 100)), WIRE, frame(0, *tags, src=ROUTER))
    assert verdict.out == ()
    assert reasons(verdict) == dropped(0, "dropped_vlan", "rx")


def test_rx_2_untagged_needs_allow_untagged() -> None:
    model = nic(vf(0, 100, allow_untagged=True), vf(1, 100))
    assert reaches(model, WIRE, frame(ALL, src=ROUTER)) == {0}
    assert reaches(model, WIRE, frame(ALL, c(0, pcp=5), src=ROUTER)) == {0}


def test_rx_2_holds_without_vlan_anti_spoof() -> None:
    model = nic(vf(0, 100, vlan_anti_spoof=False))
    assert reaches(model, WIRE, frame(ALL, c(200), src=ROUTER)) == set()


def test_rx_2_counts_nothing_for_a_flood_of_another_vlan() -> None:
    assert reasons(send(nic(vf(0, 100)), WIRE, frame(ALL, c(200), src=ROUTER))) == {}


def test_rx_1_comes_before_rx_2() -> None:
    verdict = send(nic(vf(0, 100, link_status="off")), WIRE, frame(0, c(200), src=ROUTER))
    assert reasons(verdict) == dropped(0, way="rx")


def test_rx_3_a_unicast_mac_that_the_vf_owns_passes() -> None:
    none = {"allow_bcast": False, "allow_mcast": False, "allow_un_ucast": False}
    assert reaches(nic(vf(0, **none)), WIRE, frame(0, src=ROUTER)) == {0}


@pytest.mark.parametrize(
    ("flag", "dst"), [("allow_un_ucast", STRANGER), ("allow_bcast", ALL), ("allow_mcast", GROUP)]
)
@pytest.mark.parametrize("port", [WIRE, 2])
def test_rx_3_other_classes_need_their_flag(flag: str, dst: str, port: int) -> None:
    model = nic(vf(0, **{flag: True}), vf(1, **{flag: False}), vf(2, mac_anti_spoof=False))
    verdict = send(model, port, frame(dst, src=ROUTER))
    ports = {to for to, _ in verdict.switched}
    assert 0 in ports
    assert 1 not in ports
    assert reasons(verdict) == {}


def test_rx_3_broadcast_is_not_multicast() -> None:
    assert reaches(nic(vf(0, allow_mcast=False)), WIRE, frame(ALL, src=ROUTER)) == {0}
    joined = {0: Grants(groups=frozenset({ALL}))}
    assert reaches(nic(vf(0, allow_bcast=False), grants=joined), WIRE, frame(ALL)) == set()


def test_rx_3_a_group_that_the_guest_joined_passes_without_allow_mcast() -> None:
    joined = {0: Grants(groups=frozenset({GROUP}))}
    model = nic(vf(0, allow_mcast=False), vf(1, allow_mcast=False), grants=joined)
    assert reaches(model, WIRE, frame(GROUP, src=ROUTER)) == {0}
    assert reaches(model, WIRE, frame("01:00:5e:00:00:fc", src=ROUTER)) == set()


def test_rx_3_a_group_gives_no_other_vlan() -> None:
    joined = {0: Grants(groups=frozenset({GROUP}))}
    model = nic(vf(0, 100, allow_mcast=False), grants=joined)
    assert reaches(model, WIRE, frame(GROUP, c(200), src=ROUTER)) == set()


def test_rx_3_promiscuous_modes_lie_within_the_flags() -> None:
    modes = {0: Grants(promisc=True, allmulti=True)}
    model = nic(vf(0, trust=True, allow_mcast=False), vf(1), grants=modes)
    for dst in (STRANGER, GROUP, mac(1)):
        assert 0 not in reaches(model, WIRE, frame(dst, src=ROUTER))


def test_rx_4_a_mirror_copies_before_stripping() -> None:
    source = access(0, mirror=({"target": 1, "direction": "in"},))
    sent = frame(0, c(100), src=ROUTER)
    verdict = send(nic(source, vf(1)), WIRE, sent)
    assert verdict.copies == ((1, bytes(sent)),)
    assert tags_at(verdict, 0) == ()


def test_what_comes_from_the_wire_is_not_asked_its_source() -> None:
    for src in (GROUP, "00:00:00:00:00:00", mac(0), mac(1)):
        assert reaches(nic(vf(0), vf(1)), WIRE, frame(0, src=src)) == {0}


# -- Counters -------------------------------------------------------------------------------


def test_a_frame_counts_as_its_guest_sees_it() -> None:
    sent = frame(1)
    verdict = send(nic(access(0), vf(1, 100)), 0, sent)
    assert verdict.counters == {
        (0, "tx_packets"): 1,
        (0, "tx_bytes"): len(bytes(sent)),
        (1, "rx_packets"): 1,
        (1, "rx_bytes"): len(bytes(sent)) + 4,
    }


def test_the_wires_counters_are_of_what_passes_there() -> None:
    sent = frame(ROUTER)
    verdict = send(nic(access(0)), 0, sent)
    assert verdict.counters[WIRE, "tx_packets"] == 1
    assert verdict.counters[WIRE, "tx_bytes"] == len(bytes(sent)) + 4
    verdict = send(nic(access(0)), WIRE, frame(0, c(100), src=ROUTER))
    assert verdict.counters[WIRE, "rx_bytes"] == len(bytes(sent)) + 4
    assert verdict.counters[0, "rx_bytes"] == len(bytes(sent))


def test_what_comes_from_the_wire_counts_there_even_if_nobody_takes_it() -> None:
    verdict = send(nic(vf(0, 100)), WIRE, frame(STRANGER, src=ROUTER))
    assert verdict.out == ()
    assert verdict.counters[WIRE, "rx_packets"] == 1


def test_a_segmentation_buffer_counts_as_its_segments() -> None:
    source = access(0, mirror=({"target": 2, "direction": "out"},))
    buffer = frame(1, rest=b"\x08\x00" + bytes(40 + 2500))  # 54 bytes of headers
    verdict = send(nic(source, access(1), vf(2)), 0, buffer, gso=Gso(size=1000, header=54))
    assert verdict.counters == {
        (0, "tx_packets"): 3,
        (0, "tx_bytes"): 2500 + 3 * 54,
        (0, "mirrored"): 3,
        (1, "rx_packets"): 3,
        (1, "rx_bytes"): 2500 + 3 * 54,
        (2, "rx_packets"): 3,
        (2, "rx_bytes"): 2500 + 3 * 58,
    }


@pytest.mark.parametrize(("payload", "packets"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2000, 2)])
def test_a_segment_holds_up_to_its_size(payload: int, packets: int) -> None:
    assert Gso(size=1000, header=54).packets(54 + payload) == packets
