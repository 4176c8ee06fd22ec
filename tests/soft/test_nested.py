"""A guest gives devices above its VF to containers of its own. What is heard while that happens and
what is listed when a daemon starts agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.soft.test_requests import PEER, WANTED, asked, pair
from tests.soft.world import World, frame, ip, world

from vfd.nic.protocol import Event
from vfd.nic.soft import namespace
from vfd.policy.requests import RequestKind

ANOTHER = "02:00:00:00:bb:03"
ADDED, REMOVED = RequestKind.ADD_MAC, RequestKind.REMOVE_MAC


def container(w: World, kind: str = "macvlan", *, mac: str = WANTED, name: str = "c") -> str:
    """A namespace below VF 0's guest, with a device above eth0 in it, which is down. Its name."""
    there = w.home(f"{w.id}{name}")
    more = ("id", "7") if kind == "vlan" else ()
    ip("-n", w.guests[0], "link", "add", "up0", "link", "eth0", "type", kind, *more)
    ip("-n", w.guests[0], "link", "set", "up0", "netns", there)
    ip("-n", there, "link", "set", "up0", "address", mac)
    return there


def macs(w: World) -> set[str]:
    return set(w.nic.observe().vfs[0].grants.macs)


def then(w: World, kind: RequestKind, mac: str = WANTED) -> list[Event]:
    return w.until(asked(kind, mac), seconds=10)


def passes(w: World, netns: str, device: str = "up0") -> bool:
    out, into = w.port_in(netns, device), w.port(1)
    out.send(frame(PEER, WANTED))
    heard = bool(into.heard(count=1))
    out.close()
    into.close()
    return heard


@pytest.mark.parametrize("kind", ["macvlan", "macvtap"])
def test_a_containers_device_above_the_vf_is_heard_like_the_guests_own(kind: str) -> None:
    with world() as w:
        pair(w)
        there = container(w, kind)
        w.settle()
        assert macs(w) == set(), "it is down"
        ip("-n", there, "link", "set", "up0", "up")
        then(w, ADDED)
        assert macs(w) == {WANTED}
        if kind == "macvlan":
            assert passes(w, there)
        ip("-n", there, "link", "set", "up0", "name", "else0")
        ip("-n", there, "link", "set", "else0", "down")
        then(w, REMOVED)
        ip("-n", there, "link", "set", "else0", "up")
        then(w, ADDED)
        ip("-n", there, "link", "set", "else0", "address", ANOTHER)
        then(w, ADDED, ANOTHER)
        assert macs(w) == {ANOTHER}


def test_a_device_that_is_made_in_a_container_at_once_is_heard_like_one_that_went_there() -> None:
    """As the CNI's macvlan does."""
    with world() as w:
        pair(w)
        there = w.home(f"{w.id}c")
        made = ("link", "add", "up0", "link", "eth0", "address", WANTED, "netns", there)
        ip("-n", w.guests[0], *made, "type", "macvlan")
        w.settle()
        ip("-n", there, "link", "set", "up0", "up")
        then(w, ADDED)
        assert passes(w, there)
        namespace.remove(there)
        then(w, REMOVED)
        assert macs(w) == set()


def test_a_device_that_goes_to_another_container_or_home_again_is_followed() -> None:
    with world() as w:
        pair(w)
        there, further = container(w), w.home(f"{w.id}d")
        ip("-n", there, "link", "set", "up0", "up")
        then(w, ADDED)
        ip("-n", there, "link", "set", "up0", "netns", further)
        then(w, REMOVED)
        ip("-n", further, "link", "set", "up0", "up")
        then(w, ADDED)
        assert passes(w, further)
        ip("-n", further, "link", "set", "up0", "netns", w.guests[0])
        then(w, REMOVED)
        ip("-n", w.guests[0], "link", "set", "up0", "up")
        then(w, ADDED)
        assert passes(w, w.guests[0])


def _delete_device(netns: str) -> None:
    ip("-n", netns, "link", "del", "up0")


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("end", [namespace.remove, _delete_device])
def test_a_container_that_ends_gives_its_mac_up(
    end: Callable[[str], None], restarted: bool
) -> None:
    with world() as w:
        pair(w)
        there = container(w)
        ip("-n", there, "link", "set", "up0", "up")
        then(w, ADDED)
        if restarted:
            w.reopen()
            heard = w.settle()
            assert [e for e in heard if e.request and e.request.mac == WANTED] == [], heard
        end(there)
        then(w, REMOVED)
        assert macs(w) == set()


def test_what_containers_did_while_no_daemon_ran_is_found_and_heard_from_then_on() -> None:
    with world() as w:
        pair(w)
        w.nic.close()
        there = container(w)
        ip("-n", there, "link", "set", "up0", "up")
        w.open_again()
        then(w, ADDED)
        assert passes(w, there)
        ip("-n", there, "link", "set", "up0", "down")
        then(w, REMOVED)
        assert macs(w) == set()


def test_containers_that_come_and_go_leave_nothing_behind() -> None:
    with world() as w:
        pair(w)
        for n in range(8):
            there = container(w, name=f"c{n}")
            ip("-n", there, "link", "set", "up0", "up")
            then(w, ADDED)
            namespace.remove(there)
            then(w, REMOVED)
        assert macs(w) == set()
        ip("-n", w.guests[1], "link", "set", "eth0", "address", WANTED)
        w.until(asked(RequestKind.DEFAULT_MAC, WANTED))
