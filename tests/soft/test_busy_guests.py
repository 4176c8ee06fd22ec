"""A guest that is root in its namespace may do what it likes there, as fast as it can: the daemon's
one thread is never its alone."""

from __future__ import annotations

import contextlib
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


def test_a_list_that_a_guest_changes_all_the_time_is_not_read_for_ever() -> None:
    with world() as w:
        pair(w)
        with churning(w, 0), namespace.inside(w.guests[0]):
            netlink = Netlink()
            torn = 0
            for _ in range(20):
                try:
                    rtnl.links(netlink, tries=1)
                except TornError:
                    torn += 1
            netlink.close()
        if not torn:
            pytest.skip("this machine lists so many devices faster than it makes one")


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
