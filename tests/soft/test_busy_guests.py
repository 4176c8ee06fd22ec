"""A guest that is root in its namespace may do what it likes there, as fast as it can: the daemon's
one thread is never its alone."""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from collections.abc import Iterator

import pytest
from tests.soft.test_requests import WANTED, asked, pair
from tests.soft.world import World, ip, world

import vfd.nic.soft as soft
from vfd.nic.netlink import Netlink, TornError
from vfd.nic.soft import namespace, rtnl
from vfd.policy.requests import RequestKind

ANOTHER = "02:00:00:00:dd:04"
DEVICES = 1000
"""So many that listing them takes several messages, between which the list can change."""
PATIENCE = 20.0
"""Seconds for one call on a busy machine. A call that a guest holds up never ends."""


@contextlib.contextmanager
def churning(w: World, vfid: int, *, devices: int = DEVICES) -> Iterator[None]:
    """The guest makes and deletes devices without a pause."""
    netns = w.guests[vfid]
    many = "\n".join(f"link add many{n} type veth peer name other{n}" for n in range(devices // 2))
    subprocess.run(["ip", "-n", netns, "-batch", "-"], input=many, text=True, check=True)
    loops = []
    for name in ("one", "two"):
        turn = f"link add {name} type veth peer name {name}x\\nlink del {name}"
        endless = f"yes \"$(printf '{turn}')\" | ip -n {netns} -force -batch -"
        quiet = subprocess.DEVNULL
        loops.append(
            subprocess.Popen(
                ["sh", "-c", endless], stdout=quiet, stderr=quiet, start_new_session=True
            )
        )
    try:
        time.sleep(0.2)
        yield
    finally:
        for loop in loops:
            subprocess.run(["kill", "--", f"-{loop.pid}"], check=False)
            loop.wait()


def macvlan(w: World, vfid: int, mac: str) -> None:
    add = ("link", "add", "mv0", "link", "eth0", "address", mac, "type", "macvlan")
    ip("-n", w.guests[vfid], *add)
    ip("-n", w.guests[vfid], "link", "set", "mv0", "up")


def listed_for(seconds: float, netlink: Netlink) -> None:
    """Lists this namespace's devices again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rtnl.links(netlink, tries=1)


def test_a_list_that_a_guest_changes_all_the_time_is_not_read_for_ever() -> None:
    with world() as w:
        pair(w)
        with churning(w, 0), namespace.inside(w.guests[0]):
            netlink = Netlink()
            with pytest.raises(TornError):
                listed_for(30, netlink)
            netlink.close()


def test_a_guest_that_makes_devices_without_a_pause_holds_nobody_up() -> None:
    with world() as w:
        pair(w)
        with churning(w, 0):
            w.nic.close()
            slowest = 0.0
            began = time.monotonic()
            w.nic = soft.open(w.pf)
            slowest = max(slowest, time.monotonic() - began)
            macvlan(w, 1, WANTED)
            wanted, found = asked(RequestKind.ADD_MAC, WANTED), False
            end = time.monotonic() + 20
            while not found and time.monotonic() < end:
                began = time.monotonic()
                events = w.nic.events()
                slowest = max(slowest, time.monotonic() - began)
                found = any(wanted(event) for event in events)
            assert found, "another guest's request was not heard within 20 s"
            assert slowest < PATIENCE
        # what it did meanwhile is known once it rests
        macvlan(w, 0, ANOTHER)
        w.until(asked(RequestKind.ADD_MAC, ANOTHER), seconds=10)


TOGGLED = {
    "its MAC": ("address 02:00:00:02:00:01", "address 02:00:00:02:00:02"),
    "its MTU": ("mtu 1400", "mtu 1401"),
    "promiscuous mode": ("promisc on", "promisc off"),
    "its link": ("down", "up"),
}


@contextlib.contextmanager
def toggling(w: World, vfid: int, one: str, other: str) -> Iterator[None]:
    lines = f"link set eth0 {one}\\nlink set eth0 {other}"
    endless = f"yes \"$(printf '{lines}')\" | ip -n {w.guests[vfid]} -force -batch -"
    quiet = subprocess.DEVNULL
    loop = subprocess.Popen(
        ["sh", "-c", endless], stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        time.sleep(0.7)  # so much waits to be read
        assert loop.poll() is None
        assert select.select([w.nic.fileno()], [], [], 10)[0], "its changes are not heard of"
        yield
    finally:
        subprocess.run(["kill", "--", f"-{loop.pid}"], check=False)
        loop.wait()


def turns_until_heard(w: World, mac: str) -> int:
    """How often the NIC is asked for events until another guest's request is among them."""
    macvlan(w, 1, mac)
    for turn in range(1, 1000):
        events = w.nic.events()
        for event in events:
            w.answer(event)
        if any(asked(RequestKind.ADD_MAC, mac)(event) for event in events):
            return turn
        time.sleep(0.01)
    raise AssertionError("not heard")


@pytest.mark.parametrize("what", TOGGLED)
def test_a_guest_that_changes_something_as_fast_as_it_can_holds_no_other_up(what: str) -> None:
    with world() as w:
        pair(w, guest_macs="any")
        with toggling(w, 0, *TOGGLED[what]):
            turns = turns_until_heard(w, WANTED)
        assert turns <= 12, "some 30 000 notifications wait at most, 8192 are taken at once"


def test_a_guest_with_hundreds_of_macvlans_holds_no_other_up() -> None:
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        w.guest(0)
        w.guest(1)
        w.settle()
        many = "".join(
            f"link add k{n} link eth0 type macvlan\nlink set k{n} up\n" for n in range(400)
        )
        subprocess.run(["ip", "-n", w.guests[0], "-batch", "-"], input=many, text=True, check=True)
        assert turns_until_heard(w, WANTED) <= 3
        w.settle()
        grants = w.nic.observe().vfs[0].grants
        assert len(grants.macs) == 64
        wished = [wish.request.kind for wish in w.wishes.of(0)]
        assert wished.count(RequestKind.ADD_MAC) == 256 - 64
