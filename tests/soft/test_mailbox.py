"""What guests do becomes requests, and what is remembered of them for it has an end."""

from __future__ import annotations

from vfd.nic.soft.guests import Guests, TapGuests
from vfd.nic.soft.rtnl import Membership, Neighbour
from vfd.policy.addresses import mac_bytes, mac_text
from vfd.policy.requests import Grants, Request, RequestKind

VF, PLACE = 0, (3, 7)
MANY = 20_000


def mac(number: int) -> str:
    return mac_text(b"\x02\0" + number.to_bytes(4, "big"))


def size(thing: object) -> int:
    """How many values there are in an object, in its attributes' collections and theirs."""
    if isinstance(thing, dict):
        return len(thing) + sum(size(each) for each in thing.values())
    if isinstance(thing, set | frozenset | tuple | list):
        return len(thing)
    if hasattr(thing, "__dict__"):
        return sum(size(each) for each in vars(thing).values())
    if hasattr(thing, "__slots__"):
        return sum(size(getattr(thing, name)) for name in thing.__slots__)
    return 0


def test_a_vms_first_source_is_its_default_mac_and_the_others_are_further_ones() -> None:
    guests = TapGuests()
    assert guests.source(VF, mac(1), {}) == [Request(VF, RequestKind.DEFAULT_MAC, mac=mac(1))]
    assert guests.source(VF, mac(1), {}) == []
    assert guests.source(VF, mac(2), {}) == [Request(VF, RequestKind.ADD_MAC, mac=mac(2))]
    granted = {1: Grants(default_mac=mac(9))}
    assert guests.source(1, mac(3), granted)[0].kind is RequestKind.ADD_MAC


def test_a_vm_that_sends_from_ever_new_macs_fills_no_memory() -> None:
    guests = TapGuests()
    for number in range(MANY):
        [request] = guests.source(VF, mac(number), {})
        assert request.kind is (RequestKind.ADD_MAC if number else RequestKind.DEFAULT_MAC)
    assert size(guests) < 2000
    assert guests.source(VF, mac(0), {}) == [], "its default MAC is known all along"
    assert guests.source(VF, mac(MANY - 1), {}) == []


def test_a_guest_that_lists_ever_more_addresses_and_groups_fills_no_memory() -> None:
    guests = Guests()
    guests.add(VF, PLACE, mac=mac(0), mtu=1500, grants=Grants())
    asked = 0
    for number in range(1, 3000):
        entry = Neighbour(index=PLACE[1], mac=mac(number), self_entry=True)
        asked += len(guests.neighbour(PLACE[0], entry, added=True))
        member = Membership(PLACE[1], mac_bytes(mac(number))[2:])
        guests.membership(PLACE[0], [member], joined=True)
    assert asked == 1024
    assert size(guests) < 6000
    # what it gives up makes room again
    entry = Neighbour(index=PLACE[1], mac=mac(1), self_entry=True)
    [given_up] = guests.neighbour(PLACE[0], entry, added=False)
    assert given_up.kind is RequestKind.REMOVE_MAC
    entry = Neighbour(index=PLACE[1], mac=mac(5000), self_entry=True)
    [wanted] = guests.neighbour(PLACE[0], entry, added=True)
    assert (wanted.kind, wanted.mac) == (RequestKind.ADD_MAC, mac(5000))
