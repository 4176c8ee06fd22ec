"""A tap has a guest while a process holds it, whatever that says of the link; and what one guest
sent or was granted is never the next one's."""

from __future__ import annotations

import fcntl
import os
import struct

import pytest
from tests.soft import test_reports as reports
from tests.soft.test_tap import HEADER, asks, igmp, machine
from tests.soft.world import World, frame, world

from vfd.nic.protocol import Event, EventKind
from vfd.policy.addresses import mac_bytes
from vfd.policy.requests import Grants, RequestKind

INNER, OTHER = "52:54:00:12:34:56", "52:54:00:12:34:57"
GROUP = "01:00:5e:01:02:03"
_TUNSETCARRIER = 0x400454E2


def carrier(guest: int, on: bool) -> None:
    """As QEMU's ``set_link`` and ``ip link set dev TAP carrier`` do."""
    fcntl.ioctl(guest, _TUNSETCARRIER, struct.pack("=i", on))


def grants(w: World) -> Grants:
    return w.nic.observe().vfs[0].grants


def kinds(events: list[Event]) -> list[EventKind]:
    return [e.kind for e in events if e.kind in (EventKind.GUEST_GONE, EventKind.GUEST_COME)]


def ready(w: World, guest: int) -> None:
    """The machine has a further MAC and a group."""
    w.settle()
    os.write(guest, HEADER + frame(w.mac(1), w.mac(0)))
    os.write(guest, HEADER + frame(w.mac(1), INNER))
    os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
    w.settle()
    assert grants(w) == Grants(macs=frozenset({INNER}), groups=frozenset({GROUP}))


def two(w: World) -> None:
    w.apply(w.vf(0, allow_mcast=False, guest_macs="any"), w.vf(1))


def test_a_machine_that_sends_from_a_foreign_mac_and_ends_leaves_nothing_to_the_next() -> None:
    with world(guest="tap") as w:
        two(w)
        for _ in range(5):
            with machine(w, 0) as guest:
                w.settle()
                os.write(guest, HEADER + frame(w.mac(1), INNER))
                os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            w.settle()
            assert grants(w) == Grants()
            with machine(w, 0):
                w.settle()
                assert grants(w) == Grants()
            w.settle()


def test_a_machine_whose_link_is_set_down_keeps_what_it_has_and_asks_for_nothing() -> None:
    with world(guest="tap") as w:
        two(w)
        with machine(w, 0) as guest:
            ready(w, guest)
            before = grants(w)
            carrier(guest, False)
            assert kinds(w.settle(1.2)) == []
            assert w.nic.observe().vfs[0].held
            assert grants(w) == before
            os.write(guest, HEADER + frame(w.mac(1), OTHER))
            w.settle()
            assert grants(w) == before
            carrier(guest, True)
            assert kinds(w.settle(1.2)) == []
            assert grants(w) == before
            os.write(guest, HEADER + frame(w.mac(1), OTHER))
            w.until(asks(RequestKind.ADD_MAC))
        w.until(lambda e: e.kind is EventKind.GUEST_GONE)
        assert grants(w) == Grants()


@pytest.mark.parametrize("heard", ["each", "all at once"])
def test_a_machine_that_ends_with_its_link_down_leaves_nothing_to_the_next(heard: str) -> None:
    with world(guest="tap") as w:
        two(w)
        with machine(w, 0) as guest:
            ready(w, guest)
            carrier(guest, False)
            w.settle(1.2)
        if heard == "each":
            assert kinds(w.settle()) == [EventKind.GUEST_GONE]
            assert grants(w) == Grants()
        with machine(w, 0):
            w.until(lambda e: e.kind is EventKind.GUEST_COME)
            assert grants(w) == Grants()
            assert w.nic.observe().vfs[0].held


def test_a_daemon_that_starts_takes_nothing_from_a_machine_whose_link_is_down() -> None:
    with world(guest="tap") as w:
        two(w)
        with machine(w, 0) as guest:
            ready(w, guest)
            before = grants(w)
            carrier(guest, False)
            w.settle(1.2)
            w.reopen()
            assert kinds(w.settle()) == []
            assert grants(w) == before
            w.nic.close()
        w.open_again()
        w.settle()
        assert grants(w) == Grants()


@pytest.mark.parametrize("followed", [True, False])
def test_a_machine_that_another_one_followed_while_no_daemon_ran_leaves_it_nothing(
    followed: bool,
) -> None:
    with world(guest="tap") as w:
        two(w)
        with machine(w, 0) as guest:
            ready(w, guest)
            before = grants(w)
            carrier(guest, False)
            w.settle(1.2)
            carrier(guest, True)
            w.settle(1.2)
            w.nic.close()
            if not followed:
                w.open_again()
                assert kinds(w.settle()) == []
                assert grants(w) == before
                return
        with machine(w, 0):
            w.open_again()
            assert EventKind.GUEST_GONE in kinds(w.settle())
            assert grants(w) == Grants()
            assert w.nic.observe().vfs[0].held


def test_what_one_machine_asked_for_is_granted_to_the_next_when_it_asks() -> None:
    with world(guest="tap") as w:
        two(w)
        for _ in range(3):
            with machine(w, 0) as guest:
                ready(w, guest)
                os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.9.9.9"))
            w.settle()
            assert grants(w) == Grants()


def test_groups_of_ipv6_stay_granted_when_a_new_daemon_hears_of_another_group() -> None:
    with world(guest="tap") as w:
        two(w)
        with machine(w, 0) as guest:
            w.settle()
            os.write(guest, HEADER + mld(w.mac(0), "ff15::6"))
            w.until(asks(RequestKind.JOIN_GROUP))
            w.reopen()
            w.settle()
            os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            w.until(asks(RequestKind.JOIN_GROUP))
            w.settle()
            assert grants(w).groups == {GROUP, "33:33:00:00:00:06"}


def mld(source: str, group: str) -> bytes:
    report = bytearray(reports.mld(reports.mld1(131, group)))
    report[6:12] = mac_bytes(source)
    return bytes(report)
