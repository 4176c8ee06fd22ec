"""What a guest asked for, wished or was granted ends with it: nobody who follows it gets any of
that, however late its end is heard."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess

import pytest
from tests.soft.test_requests import WANTED, asked
from tests.soft.test_tap import HEADER, igmp, machine
from tests.soft.world import World, deafen, frame, ip, lose_unheard, world

from vfd.nic.netlink import Listener, Notification
from vfd.nic.protocol import EventKind
from vfd.nic.soft.libbpf import BpfMap
from vfd.policy.requests import Grants, RequestKind

INNER, OTHER = "52:54:00:12:34:56", "52:54:00:12:34:57"


def grants(w: World) -> Grants:
    return w.nic.observe().vfs[0].grants


@pytest.mark.parametrize("when", ["before", "while it was listened"])
def test_nothing_that_a_machine_sent_is_asked_for_the_one_that_follows_it_at_once(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(guest="tap") as w, contextlib.ExitStack() as later:
        w.apply(*(w.vf(v, allow_mcast=False, guest_macs="any") for v in range(2)))
        beside = later.enter_context(machine(w, 1))
        first = later.enter_context(contextlib.ExitStack())
        guest = first.enter_context(machine(w, 0))
        w.settle()

        def follow() -> None:
            os.write(guest, HEADER + frame(w.mac(1), INNER))
            os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            first.close()
            later.enter_context(machine(w, 0))
            os.write(beside, HEADER + frame(w.mac(0), OTHER))

        to_come = [follow]
        listen = Listener.receive

        def receive(listener: Listener, most: int) -> tuple[list[Notification], bool]:
            if to_come:
                to_come.pop()()
            return listen(listener, most)

        if when == "before":
            to_come.pop()()
        monkeypatch.setattr(Listener, "receive", receive)
        events = w.nic.events()
        for event in events:
            w.answer(event)
        events += w.settle()
        told = [e.kind for e in events if e.vfid == 0]
        assert told == [EventKind.GUEST_GONE, EventKind.GUEST_COME]
        assert grants(w) == Grants()
        asks = [e.request.mac for e in events if e.request]
        assert asks == [OTHER], "what others sent meanwhile is asked for"


def lose(w: World, vfid: int) -> None:
    """The VF's netdevs are gone, with its guest's namespace if it is in one; nobody hears of it."""
    if vfid in w.guests:
        lose_unheard(w, vfid)
    else:
        ip("link", "del", f"{w.id}v{vfid}")


def test_what_a_guest_asked_for_before_its_end_was_lost_to_hear_is_not_asked_for_the_next() -> None:
    with world(vfs=3) as w:
        w.apply(*(w.vf(vfid) for vfid in range(3)))
        w.guest(1)
        w.guest(2)
        w.settle()
        fdb = ["bridge", "fdb", "add", WANTED, "self", "dev"]
        subprocess.run([*fdb, f"{w.id}v0"], check=True)
        subprocess.run(["ip", "netns", "exec", w.guests[1], *fdb, "eth0"], check=True)
        deafen("eth0", netns=w.guests[2])
        lose(w, 0)
        lose(w, 1)
        events = w.settle()
        assert EventKind.OVERRUN in [e.kind for e in events]
        assert {0, 1} <= {e.vfid for e in events if e.kind is EventKind.VF_RESET}
        assert not any(asked(RequestKind.ADD_MAC, WANTED)(e) for e in events)
        assert grants(w) == w.nic.observe().vfs[1].grants == Grants()


WHERE = pytest.mark.parametrize("place", ["a namespace of its own", "the daemon's"])


@WHERE
def test_a_wish_of_a_guest_of_whose_end_only_the_nic_knows_is_not_granted_to_the_next(
    place: str,
) -> None:
    with world() as w:
        w.apply(w.vf(0), w.vf(1, vm_mac=WANTED))
        if place == "the daemon's":
            ip("link", "set", f"{w.id}v0", "address", WANTED)
        else:
            ip("-n", w.guest(0), "link", "set", "eth0", "address", WANTED)
        w.until(asked(RequestKind.DEFAULT_MAC, WANTED))
        assert w.mac(0) != WANTED, "it is VF 1's"
        tc = ["tc", "qdisc", "del", "dev", "v1", "clsact"]
        subprocess.run(["ip", "netns", "exec", f"vfd-{w.id}", *tc], check=True)
        w.until(lambda e: e.kind is EventKind.DRIFT)
        lose(w, 0)
        w.apply(w.vf(1))  # looks everywhere for what somebody changed, and makes VF 0 anew
        w.settle()
        assert grants(w) == Grants()
        assert w.mac(0) != WANTED


def test_grants_that_could_not_be_taken_back_when_a_guest_went_are_when_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as guest:
            w.settle()
            os.write(guest, HEADER + frame(w.mac(1), INNER))
            w.until(lambda e: e.request is not None)
            assert grants(w) != Grants()

        def fails(*_: object) -> None:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        with monkeypatch.context() as short_of_memory:
            short_of_memory.setattr(BpfMap, "put_all", fails)
            events = w.until(lambda e: e.kind is EventKind.GUEST_GONE, answer=False)
        assert grants(w) != Grants(), "they are shown while they are there"
        for event in events:
            w.answer(event)
        assert grants(w) == Grants()
        with machine(w, 0):
            w.settle()
            assert grants(w) == Grants()
