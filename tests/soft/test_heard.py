"""What the kernel tells is kept as it is by now, and comes out namespace by namespace in turn."""

from __future__ import annotations

import struct

from vfd.nic.soft import nsids, rtnl
from vfd.nic.soft.heard import Heard, News

OWN = 7
"""The NIC's own port id."""


def link(index: int, name: str = "") -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, 1, 0) + name.encode()


def group(index: int, last: int) -> bytes:
    address = struct.pack("=HH4B", 8, 7, 239, 1, 2, last)  # IFA_MULTICAST
    return struct.pack("=BBBBi", 2, 0, 0, 0, index) + address


def heard(*told: tuple[int | None, int, bytes]) -> Heard:
    made = Heard(OWN, guests=True)
    made.take([(nsid, kind, 0, body) for nsid, kind, body in told])
    return made


def news(of: Heard) -> list[tuple[int | None, News]]:
    return list(of.turns())


NEW, DEL = rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK
JOIN, LEAVE = rtnl.RTM_NEWMULTICAST, rtnl.RTM_DELMULTICAST


def test_of_what_was_told_of_a_device_the_last_is_kept() -> None:
    of = heard(*((1, NEW, link(5, f"n{n}")) for n in range(1000)), (2, NEW, link(5)))
    assert [(nsid, one.link[16:]) for nsid, one in news(of)] == [(1, b"n999"), (2, b"")]
    assert not of


def test_a_device_that_went_and_one_that_came_in_its_place_are_two() -> None:
    [(_, one)] = news(heard((1, NEW, link(5)), (1, JOIN, group(5, 3)), (1, DEL, link(5))))
    assert (one.gone, one.anew, one.members) == (True, True, {})
    [(_, one)] = news(heard((1, DEL, link(5)), (1, NEW, link(5)), (1, JOIN, group(5, 3))))
    assert (one.gone, one.anew, len(one.members)) == (False, True, 1)


def test_a_group_that_was_joined_and_left_is_left() -> None:
    [(_, one)] = news(heard(*((1, kind, group(5, 3)) for kind in (JOIN, LEAVE) * 50)))
    assert [joined for _, joined in one.members.values()] == [False]


def test_whoever_changes_much_waits_for_whoever_changes_little() -> None:
    many = [(1, NEW, link(index)) for index in range(1000)]
    of = heard(*many, (2, NEW, link(5)))
    order = [nsid for nsid, _ in of.turns()]
    assert order.index(2) == 16
    assert order.count(1) == 1000


def test_who_is_cut_off_in_the_middle_of_a_turn_is_not_the_first_in_the_next() -> None:
    of = heard(*((nsid, NEW, link(index)) for nsid in (1, 2) for index in range(40)))
    firsts = []
    for _ in range(4):
        for nsid, _news in of.turns():
            firsts.append(nsid)
            break
    assert firsts == [1, 2, 1, 2]


def test_more_than_can_be_kept_of_a_namespace_has_it_listed_and_hides_no_other() -> None:
    many = [(1, NEW, link(index)) for index in range(10_000)]
    of = heard(*many, (2, NEW, link(5)))
    assert of.overfull() == {1}
    assert of.overfull() == set()
    found = news(of)
    assert len(found) == 4096 + 1
    assert [nsid for nsid, _ in found].count(2) == 1
    of = heard(*((1, JOIN, group(5, n)) for n in range(256)), *((1, NEW, link(5)),) * 9)
    assert len(news(of)) == 1
    assert of.overfull() == set()


def test_what_was_told_of_a_namespace_that_is_gone_is_of_no_interest() -> None:
    gone = struct.pack("=B3xHHi", 0, 8, 1, 3)  # NETNSA_NSID 3
    of = heard((3, NEW, link(5)), (None, nsids.RTM_DELNSID, gone), (3, NEW, link(6)))
    assert of.ended() == [3]
    assert [one.link for _, one in news(of)] == [link(6)]


def test_the_nics_own_traffic_control_and_guests_are_not_heard() -> None:
    qdisc = struct.pack("=BxHiII", 0, 0, 5, 0xFFFF0000, 0xFFFFFFF1) + bytes(4)
    of = Heard(OWN, guests=True)
    kind = rtnl.RTM_DELQDISC
    of.take([(None, kind, OWN, qdisc), (1, kind, 0, qdisc), *[(None, kind, 9, qdisc)] * 5])
    assert of.traffic() == [(5, 0xFFFF0000, 0xFFFFFFF1, kind)]
    assert of.traffic() == []
