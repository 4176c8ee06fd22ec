"""What guests do becomes requests. Each is followed apart, and what is remembered has an end."""

from __future__ import annotations

import time

from vfd.nic.soft.guests import Guests
from vfd.nic.soft.rtnl import IFF_UP, Link, Membership, Neighbour
from vfd.nic.soft.taps import TapGuests
from vfd.policy.requests import Grants, RequestKind

GROUP = Membership(index=256, group=bytes((239, 1, 2, 3)))
OWN = "02:00:00:ff:00:01"


def link(index: int, mac: str, kind: str = "veth", below: int | None = None) -> Link:
    return Link(
        index=index,
        flags=IFF_UP,
        name=f"d{index}",
        mac=mac,
        mtu=1500,
        max_mtu=65535,
        kind=kind,
        link=below,
        link_nsid=None,
        master=None,
        promiscuity=0,
        allmulti=0,
        carrier=True,
        losses=0,
        new_nsid=None,
    )


def macvlan(number: int) -> Link:
    mac = f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return link(1000 + number, mac, "macvlan", below=256)


def guests(count: int) -> Guests:
    """VF n's guest end has index 256 in namespace n, and is up."""
    found = Guests()
    for vfid in range(count):
        found.add(vfid, (vfid, 256), mac=OWN, mtu=1500, grants=Grants())
        found.link(vfid, link(256, OWN))
    return found


def test_a_guest_with_endless_devices_takes_no_room_from_others() -> None:
    both = guests(2)
    for number in range(1, 20_000):
        both.membership(0, [Membership(1000 + number, GROUP.group)], joined=True)
    both.membership(1, [GROUP], joined=True)
    assert [(r.vfid, r.kind, r.mac) for r in both.asks()] == [
        (1, RequestKind.JOIN_GROUP, "01:00:5e:01:02:03")
    ]


def test_devices_that_have_nothing_to_do_with_the_vf_take_no_room_from_it() -> None:
    one = guests(1)
    for number in range(20_000):
        one.membership(0, [Membership(1000 + number, GROUP.group)], joined=True)
    one.membership(0, [GROUP], joined=True)
    assert [r.mac for r in one.asks()] == ["01:00:5e:01:02:03"]


def test_a_macvlans_groups_may_be_told_before_it_is() -> None:
    one = guests(1)
    one.membership(0, [Membership(1001, GROUP.group)], joined=True)
    assert one.asks() == []
    one.link(0, macvlan(1))
    assert [r.kind for r in one.asks()] == [
        RequestKind.ADD_MAC,
        RequestKind.JOIN_GROUP,
    ]


def test_a_guest_that_makes_endless_macvlans_is_not_followed_for_ever() -> None:
    one = guests(1)
    for number in range(1, 10_000):
        one.link(0, macvlan(number))
    first = one.asks()
    assert len(first) == 256, "four times what it can be granted"
    one.link(0, macvlan(9_999))
    assert one.asks() == []
    one.gone(0, 1001)
    assert [(r.kind, r.mac) for r in one.asks()] == [
        (RequestKind.REMOVE_MAC, macvlan(1).mac),
        (RequestKind.ADD_MAC, macvlan(257).mac),
    ]
    for number in range(1, 10_000):
        one.gone(0, 1000 + number)
    assert len(one.asks()) == 256
    one.link(0, macvlan(9_999))
    assert [r.mac for r in one.asks()] == [macvlan(9_999).mac]


def test_nothing_is_remembered_of_a_namespace_that_no_vf_is_in() -> None:
    one = guests(1)
    one.membership(7, [GROUP], joined=True)
    one.add(0, (7, 256), mac=OWN, mtu=1500, grants=Grants())
    one.link(7, link(256, OWN))
    assert one.asks() == []


def test_a_machines_first_source_is_its_default_mac_where_it_may_be_its_own() -> None:
    taps, macs = TapGuests(), [macvlan(number).mac for number in (1, 2)]
    assert [r.kind for r in taps.source(0, macs[0], own=True)] == [RequestKind.DEFAULT_MAC]
    assert [r.kind for r in taps.source(0, macs[1], own=True)] == [RequestKind.ADD_MAC]
    assert [r.kind for r in taps.source(1, macs[0], own=False)] == [RequestKind.ADD_MAC]


def test_a_tap_that_invents_macs_for_ever_is_asked_about_the_last_ones() -> None:
    taps = TapGuests()
    macs = [macvlan(number).mac for number in range(5_000)]
    for mac in macs:
        assert [r.mac for r in taps.source(0, mac, own=True)] == [mac]
    assert taps.source(0, macs[-1], own=True) == [], "asked for twice"
    assert [r.kind for r in taps.source(0, macs[0], own=True)] == [RequestKind.ADD_MAC]


def test_a_guest_that_lists_ever_more_addresses_is_asked_about_the_first_ones() -> None:
    one = guests(1)

    def entry(number: int) -> Neighbour:
        return Neighbour(index=256, mac=macvlan(number).mac, self_entry=True)

    for number in range(1, 3000):
        one.neighbour(0, entry(number), added=True)
    assert {r.mac for r in one.asks()} == {macvlan(number).mac for number in range(1, 257)}
    one.neighbour(0, entry(1), added=False)
    assert [r.kind for r in one.asks()] == [RequestKind.REMOVE_MAC, RequestKind.ADD_MAC]


def test_a_device_that_is_listed_before_the_one_below_it_is_known_all_the_same() -> None:
    one = guests(1)
    vlan = link(900, macvlan(9).mac, "vlan", below=1001)
    one.links(0, [vlan, macvlan(1), link(256, OWN)])
    assert {r.mac for r in one.asks()} == {macvlan(1).mac, macvlan(9).mac}
    one.gone(0, 1001)
    assert {(r.kind, r.mac) for r in one.asks()} == {
        (RequestKind.REMOVE_MAC, macvlan(1).mac),
        (RequestKind.REMOVE_MAC, macvlan(9).mac),
    }


def test_what_is_told_of_one_device_costs_the_same_however_many_there_are() -> None:
    def seconds(devices: int) -> float:
        one = guests(1)
        for number in range(1, devices):
            one.link(0, macvlan(number))
        one.asks()
        began = time.perf_counter()
        for _ in range(200):
            one.link(0, macvlan(devices))
            one.asks()
            one.gone(0, 1000 + devices)
            one.asks()
        return time.perf_counter() - began

    assert min(seconds(4000) for _ in range(3)) < 3 * min(seconds(300) for _ in range(3))
