"""Which control surface takes what, and what rtnetlink makes of a VF's rules."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from vfd.nic.kernel.drivers import DRIVERS, driver_named
from vfd.nic.kernel.rtnl import Rtnetlink
from vfd.nic.kernel.surface import (
    CONSEQUENCES,
    NEEDS_NOBODY,
    PROVIDERS,
    Assignment,
    absent,
    assign,
)
from vfd.nic.kernel.vfinfo import (
    IFLA_IFNAME,
    IFLA_MTU,
    IFLA_VFINFO_LIST,
    Step,
    VfSettings,
    parse_link,
    set_vfs,
)
from vfd.nic.netlink import Netlink, attr, attr_text, attr_u32, nest
from vfd.policy.rate import Rate
from vfd.policy.values import C_TAG, S_TAG, VfRules

ACCESS = VfRules(vlans=(100,), strip_ctag=True, vm_mac="02:00:00:00:00:01", rate=Rate(bps=10**8))


@pytest.fixture
def igb() -> Rtnetlink:
    return Rtnetlink(Netlink(), 1, driver_named("igb"))


@pytest.fixture
def ice() -> Rtnetlink:
    return Rtnetlink(Netlink(), 1, driver_named("ice"))


def test_every_attribute_has_a_consequence_and_a_value_that_needs_nobody() -> None:
    assert CONSEQUENCES.keys() == NEEDS_NOBODY.keys() == PROVIDERS.keys()
    assert CONSEQUENCES.keys() == VfRules.model_fields.keys()


def test_access_mode_is_rtnetlinks(igb: Rtnetlink) -> None:
    taken, lacking = assign(ACCESS, [igb])
    assert {"vlans", "strip_ctag", "vm_mac", "rate", "mac_anti_spoof"} <= taken["rtnetlink"]
    assert lacking == {}


def test_a_guest_is_kept_to_its_macs_where_the_driver_refuses_it_others(igb: Rtnetlink) -> None:
    """igb_set_vf_mac_filter: "requested MAC filter but is administratively denied"."""
    forced = VfRules(vlans=(5,), strip_ctag=True, vm_mac="02:00:00:00:00:01")
    assert "guest_macs" in assign(forced, [igb])[0]["rtnetlink"]
    for rules in (
        forced.model_copy(update={"trust": True}),
        VfRules(vlans=(5,), strip_ctag=True, guest_macs="none"),
    ):
        lacking = assign(rules, [igb])[1]["guest_macs"]
        assert "vm_mac is forced and trust is false" in lacking.reason
    any_mac = VfRules(vlans=(5,), strip_ctag=True)
    assert "guest_macs" not in assign(any_mac, [igb])[1]


def test_a_vlan_list_is_lacking_and_says_what_would_provide_it(igb: Rtnetlink) -> None:
    _, lacking = assign(VfRules(vlans=(1, 2)), [igb])
    assert "switchdev" in lacking["vlans"].reason
    assert lacking["vlans"].consequence == CONSEQUENCES["vlans"]


def test_service_access_needs_a_driver_with_802_1ad(igb: Rtnetlink, ice: Rtnetlink) -> None:
    rules = VfRules(vlans=(5,), strip_stag=True)
    assert "strip_stag" in assign(rules, [igb])[1]
    assert "0x88a8" in assign(rules, [ice])[1]["strip_stag"].reason
    service = Rtnetlink(Netlink(), 1, driver_named("ice"), pf_tpid=S_TAG)
    assert "strip_stag" not in assign(rules, [service])[1]


def test_what_is_expressed_is_the_rules_in_steps_of_1_mbit(igb: Rtnetlink) -> None:
    rules = ACCESS.model_copy(update={"rate": Rate(bps=1_600_000)})
    shown = igb.express(Assignment(rules, assign(rules, [igb])[0]["rtnetlink"]))
    assert shown["rate"] == Rate(bps=2_000_000)
    assert shown["vlans"] == (100,)
    assert shown["vm_mac"] == "02:00:00:00:00:01"


def test_a_closed_vf_has_its_link_off_where_the_driver_can(igb: Rtnetlink, ice: Rtnetlink) -> None:
    closed = Assignment(None, frozenset())
    assert ice.express(closed)["link_status"] == "off"
    assert "link_status" not in igb.express(closed)


PLAIN = VfSettings(mac="02:00:00:00:00:01", spoofchk=True, trust=False, link_state=0)


@pytest.mark.parametrize(
    "wanted",
    [
        replace(PLAIN, mac="02:00:00:00:00:02"),
        replace(PLAIN, vlan=100),
        replace(PLAIN, vlan=100, tpid=S_TAG),
        replace(PLAIN, max_tx_mbps=10, min_tx_mbps=5),
        replace(PLAIN, spoofchk=False, trust=True, link_state=2),
    ],
)
def test_what_is_sent_reads_back_as_it_was_meant(wanted: VfSettings) -> None:
    [message] = set_vfs(7, [Step(3, VfSettings(mac="ff:ff:ff:ff:ff:ff"), wanted)])
    link = parse_link(message)
    assert link.index == 7
    got = link.vfs[3]
    if wanted.tpid == C_TAG:
        assert got == wanted
    else:  # the kernel shows an 802.1ad VLAN in both of its forms, and takes it in one
        assert replace(got, vlan=wanted.vlan, tpid=S_TAG) == wanted


def test_settings_that_stay_are_not_sent() -> None:
    nothing = replace(PLAIN, mac=None, spoofchk=None, trust=None, link_state=None)
    assert set_vfs(7, [Step(3, PLAIN, PLAIN), Step(4, PLAIN, nothing)]) == ()


@pytest.mark.parametrize("attribute", VfRules.model_fields)
def test_what_nothing_offers_names_what_would(attribute: str) -> None:
    assert PROVIDERS[attribute] in absent(attribute).reason


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "rules",
    [
        VfRules(vlans=[1, 2], macs=["02:00:00:00:00:09"], allow_un_ucast=True),
        VfRules(vlans=[1, 2], strip_ctag=True, allow_bcast=False, mtu=1400, storm_limit=5),
        VfRules(vlans=[5], strip_stag=True, trust=True, mirror={"target": 2}, queues=[]),
    ],
)
def test_every_refusal_names_what_would_enforce_it(driver: str, rules: VfRules) -> None:
    _, lacking = assign(rules, [Rtnetlink(Netlink(), 1, driver_named(driver))])
    assert lacking
    for attribute, why in lacking.items():
        assert PROVIDERS[attribute] in why.reason, attribute


def test_rates_are_those_that_the_driver_enforces(igb: Rtnetlink) -> None:
    i40e = Rtnetlink(Netlink(), 1, driver_named("i40e"))
    asked = VfRules(vlans=[5], strip_ctag=True, rate=Rate(bps=130 * 10**6))
    taken, lacking = assign(asked, [i40e])
    assert "rate" not in lacking
    assert i40e.express(Assignment(asked, taken["rtnetlink"]))["rate"] == Rate(bps=10**8)
    too_small = asked.model_copy(update={"rate": Rate(bps=30 * 10**6)})
    assert "50 Mbit/s" in assign(too_small, [i40e])[1]["rate"].reason
    assert "rate" not in assign(too_small, [igb])[1]
    assert "50 Mbit/s" in i40e.capabilities()["rate"].limit
    assert (
        "10 Gbit/s" in Rtnetlink(Netlink(), 1, driver_named("ixgbe")).capabilities()["rate"].limit
    )
    assert "rate" not in Rtnetlink(Netlink(), 1, driver_named("igb", "1521")).capabilities()


def test_a_check_of_sources_that_needs_a_forced_mac_is_not_turned_on_without_one() -> None:
    """mlx5's rule lets one source pass: the forced MAC, or 0 where there is none."""
    mlx5 = Rtnetlink(Netlink(), 1, driver_named("mlx5_core"))
    for rules, is_on in ((ACCESS, True), (ACCESS.model_copy(update={"vm_mac": None}), False)):
        taken, lacking = assign(rules, [mlx5])
        assert ("mac_anti_spoof" in lacking) == (not is_on)
        shown = mlx5.express(Assignment(rules, taken["rtnetlink"]))
        assert shown["mac_anti_spoof"] == is_on
    assert "set vm_mac" in lacking["mac_anti_spoof"].reason
    assert mlx5.express(Assignment(None, frozenset()))["mac_anti_spoof"]


def test_unknown_unicast_follows_from_trust(igb: Rtnetlink, ice: Rtnetlink) -> None:
    both = VfRules(vlans=[5], strip_ctag=True, trust=True, allow_un_ucast=True)
    trusted = both.model_copy(update={"allow_un_ucast": False})
    alone = both.model_copy(update={"trust": False})
    neither = both.model_copy(update={"trust": False, "allow_un_ucast": False})
    assert [
        "allow_un_ucast" in assign(rules, [ice])[1] for rules in (both, trusted, alone, neither)
    ] == [False, True, True, False]
    assert [
        "allow_un_ucast" in assign(rules, [igb])[1] for rules in (both, trusted, alone, neither)
    ] == [True, False, True, False]


def test_a_list_of_vfs_that_outgrew_its_attribute_is_no_list_but_what_came_before_it_holds() -> (
    None
):
    head = struct.pack("=BxHiII", 0, 0, 7, 0, 0)
    before = attr_text(IFLA_IFNAME, "pf0") + attr_u32(IFLA_MTU, 9000)
    vfs = b"".join(
        nest(1, attr(4, struct.pack("=II", n, 1)), attr(8, bytes(250))) for n in range(256)
    )
    length = len(vfs) + 4
    assert length > 0xFFFF
    torn = struct.pack("=HH", length & 0xFFFF, IFLA_VFINFO_LIST) + vfs
    link = parse_link(head + before + torn + attr_u32(IFLA_MTU, 1))
    assert link.torn
    assert (link.name, link.mtu, link.vfs, link.vf_counters) == ("pf0", 9000, {}, {})
    few = b"".join(nest(1, attr(4, struct.pack("=II", n, 1))) for n in range(3))
    whole = parse_link(head + before + attr(IFLA_VFINFO_LIST, few) + attr_u32(IFLA_MTU, 1))
    assert (whole.torn, whole.mtu, sorted(whole.vfs)) == (False, 9000, [0, 1, 2])
