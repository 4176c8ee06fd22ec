"""What a soft NIC loses comes back, its program with it; frames show that."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.soft.test_life import talk
from tests.soft.world import World, deafen, frame, ip, lose_unheard, world

import vfd.nic.soft as soft
from vfd.nic.protocol import Event, EventKind
from vfd.nic.soft import namespace
from vfd.nic.soft.tap import open_tap
from vfd.policy.requests import Grants


def spoofs_counted(w: World, vfid: int) -> int:
    """How many frames of a MAC that isn't the VF's its guest gets counted as spoofed, of five."""
    before = w.nic.counters()[vfid]["spoofed"]
    out = w.port(vfid)
    for _ in range(5):
        out.send(frame("02:00:00:00:99:99", "02:00:00:00:66:66"))
    out.close()
    return w.nic.counters()[vfid]["spoofed"] - before


def test_the_program_outlives_the_last_vfs_guest() -> None:
    with world(vfs=1) as w:
        w.apply(w.vf(0))
        w.guest(0)
        w.settle()
        assert spoofs_counted(w, 0) == 5
        counted = w.nic.counters()[0]["spoofed"]
        namespace.remove(w.guests[0])
        w.until(lambda e: e.kind is EventKind.VF_RESET)
        w.settle()
        assert w.nic.observe().vfs[0].rules is not None
        assert w.nic.counters()[0]["spoofed"] == counted
        w.guest(0)
        w.settle()
        assert spoofs_counted(w, 0) == 5


def test_the_program_outlives_a_namespace_that_had_every_vf() -> None:
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        name = w.guest(0)
        ip("link", "set", f"{w.id}v1", "netns", name, "name", "eth1")
        w.settle()
        namespace.remove(name)
        gone: set[int | None] = set()
        while gone < {0, 1}:  # the kernel takes them apart in an order of its own
            told = w.until(lambda e: e.kind is EventKind.VF_RESET)
            gone |= {e.vfid for e in told if e.kind is EventKind.VF_RESET}
        w.settle()
        w.guest(0)
        w.guest(1)
        w.settle()
        assert talk(w, 0, 1) == 10


def test_the_program_outlives_the_only_hook() -> None:
    with world(vfs=1) as w:
        w.apply(w.vf(0))
        w.guest(0)
        w.settle()
        subprocess.run(
            ["ip", "netns", "exec", f"vfd-{w.id}", "tc", "qdisc", "del", "dev", "v0", "clsact"],
            check=True,
        )
        w.until(lambda e: e.kind is EventKind.DRIFT)
        w.apply()
        w.settle()
        assert w.nic.observe().vfs[0].rules is not None
        assert spoofs_counted(w, 0) == 5


@pytest.mark.parametrize("daemon", ["the same", "a new"])
def test_a_nic_without_vfs_keeps_its_program_for_those_that_come(daemon: str) -> None:
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        w.apply(without=(0, 1), pf=w.pf.model_copy(update={"vfs": 0}))
        if daemon == "a new":
            w.reopen()
        w.apply(w.vf(0), w.vf(1), pf=w.pf.model_copy(update={"vfs": 2}))
        w.guest(0)
        w.guest(1)
        w.settle()
        assert talk(w, 0, 1) == 10


def test_a_shaper_that_is_deleted_with_all_hooks_is_made_again_and_the_program_attached() -> None:
    with world(vfs=1) as w:
        w.apply(w.vf(0))
        w.guest(0)
        w.settle()
        inside = ["ip", "netns", "exec", f"vfd-{w.id}"]
        subprocess.run([*inside, "ip", "link", "del", "shaper0"], check=True)
        subprocess.run([*inside, "tc", "qdisc", "del", "dev", "v0", "clsact"], check=True)
        w.until(lambda e: e.kind is EventKind.DRIFT)
        w.settle()
        w.apply()
        assert w.nic.observe().vfs[0].rules is not None
        assert spoofs_counted(w, 0) == 5


def test_a_closed_taps_frames_never_reach_the_hosts_stack() -> None:
    with world(guest="tap", vfs=1) as w:
        w.apply(pf=w.pf.model_copy(update={"vfs": 0}))
        w.apply(pf=w.pf.model_copy(update={"vfs": 1}))
        guest = open_tap(f"{w.id}v0")
        try:
            w.settle()
            counted = w.nic.counters()[0]["tx_dropped"]
            os.write(guest, bytes(10) + frame(w.mac(0), "02:00:00:00:66:66"))
            assert w.nic.counters()[0]["tx_dropped"] == counted + 1
        finally:
            os.close(guest)


@pytest.mark.parametrize("way", ["directly", "by way of the host, in quick succession"])
def test_a_vf_that_goes_from_one_guest_to_another_serves_the_other(way: str) -> None:
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        w.guest(0)
        first = w.guest(1)
        w.settle()
        ip("-n", first, "link", "set", "eth0", "address", "02:00:00:00:dd:01")
        w.until(lambda e: e.request is not None and e.request.mac == "02:00:00:00:dd:01")
        second = w.home(f"{w.id}h")
        for turn in range(6):
            if way == "directly":
                ip("-n", first, "link", "set", "eth0", "netns", second)
            else:
                ip("-n", first, "link", "set", "eth0", "netns", str(os.getpid()), "name", "back")
                ip("link", "set", "back", "netns", second, "name", "eth0")
            ip("-n", second, "link", "set", "eth0", "up")
            w.guests[1] = second
            events = w.settle()
            assert [e.vfid for e in events if e.kind is EventKind.GUEST_GONE] == [1]
            shown = json.loads(ip("-j", "-n", second, "link", "show", "eth0"))[0]["address"]
            assert w.mac(1) == shown, f"turn {turn}: the guest's own MAC is not asked for"
            assert talk(w, 1, 0) == 10
            assert talk(w, 0, 1) == 10
            first, second = second, first


@contextlib.contextmanager
def descriptors(free: int) -> Iterator[None]:
    """This process can open as many descriptors more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(fd.name) for fd in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 64, limits[1]))
    filling = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(filling.pop())
        yield
    finally:
        for fd in filling:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_guest_end_that_can_not_be_given_its_mac_fails_no_change() -> None:
    forced = "02:00:00:00:dd:01"
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        w.guest(0)
        w.settle()
        w.nic.observe()
        with descriptors(free=1):  # entering the guest's namespace takes two
            w.apply(w.vf(0, vm_mac=forced))
        assert w.mac(0) == forced
        w.until(lambda e: e.kind is EventKind.DRIFT and "dressed" in e.text)
        w.apply()
        assert w.nic.observe().vfs[0].rules is not None


def test_what_was_heard_is_not_lost_when_something_fails_meanwhile() -> None:
    early, late = "02:00:00:00:dd:01", "02:00:00:00:dd:02"
    with world() as w:
        uplink, far = w.wire()
        w.apply(w.vf(0), w.vf(1), pf=w.pf.model_copy(update={"uplink": uplink}))
        w.guest(0)
        w.guest(1)
        w.settle()
        ip("-n", w.guests[0], "link", "set", "eth0", "address", early)
        ip("-n", far, "link", "set", "eth0", "down")  # the link's speed can't be asked for
        while "state UP" in ip("-n", f"vfd-{w.id}", "link", "show", uplink):
            time.sleep(0.01)  # the kernel tells of it in its own time
        ip("-n", w.guests[1], "link", "set", "eth0", "address", late)
        batch: list[Event] = []
        with descriptors(free=0):
            for _ in range(100):  # others' news may fill a turn
                batch += w.nic.events()
                if EventKind.OVERRUN in [e.kind for e in batch]:
                    break
        asked = [(e.vfid, e.request.mac) for e in batch if e.request]
        assert (0, early) in asked
        assert (1, late) in asked
        assert EventKind.OVERRUN in [e.kind for e in batch], "the daemon is to look again"
        for event in batch:
            w.answer(event)
        ip("-n", w.guests[1], "link", "set", "eth0", "mtu", "1400")
        w.until(lambda e: e.kind is EventKind.LINK and not w.nic.link().up)
        w.settle()
        assert not w.nic.observe().vfs[0].link_up
        assert (w.mac(0), w.mac(1)) == (early, late)


@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("request_", ["delete", "update", "update of another VF"])
def test_a_guest_that_dies_during_a_request_neither_fails_it_nor_leaves_grants(
    request_: str, drift: bool
) -> None:
    wanted = "02:00:00:00:dd:01"
    with world(vfs=3) as w:
        w.apply(w.vf(0), w.vf(1), w.vf(2))
        w.guest(0)
        w.guest(1)
        w.settle()
        ip("-n", w.guests[1], "link", "set", "eth0", "address", wanted)
        w.until(lambda e: e.request is not None and e.request.mac == wanted)
        w.settle()
        if drift:
            tc = ["tc", "qdisc", "del", "dev", "v2", "clsact"]
            subprocess.run(["ip", "netns", "exec", f"vfd-{w.id}", *tc], check=True)
            w.until(lambda e: e.kind is EventKind.DRIFT)
        lose_unheard(w, 1)
        match request_:
            case "delete":
                w.apply(without=(1,))
            case "update":
                w.apply(w.vf(1, max_rx_rate="1Gbps", link_status="off"))
            case _:
                w.apply(w.vf(0, vlans=[7]))
        events = w.settle()
        assert [e.kind for e in events if e.vfid == 1] == [EventKind.GUEST_GONE, EventKind.VF_RESET]
        w.apply(w.vf(0), w.vf(1, vlans=[7]))
        seen = w.nic.observe().vfs[1]
        assert seen.grants.default_mac is None
        assert seen.mac != wanted
        w.guest(1)
        w.settle()
        assert talk(w, 1, 0) == 10


def test_vfs_lost_while_notifications_were_lost_are_all_told_and_fresh() -> None:
    with world(vfs=3) as w:
        w.apply(w.vf(0), w.vf(1), w.vf(2))
        w.guest(0)
        w.guest(1)
        w.guest(2)
        w.settle()
        old = w.mac(0), w.mac(1)
        lose_unheard(w, 0, 1)
        deafen("eth0", netns=w.guests[2])
        events = w.settle()
        assert EventKind.OVERRUN in [e.kind for e in events]
        for kind in (EventKind.GUEST_GONE, EventKind.VF_RESET):
            assert Counter(e.vfid for e in events if e.kind is kind) == {0: 1, 1: 1}
        assert (w.mac(0), w.mac(1)) != old


def test_of_guests_only_those_that_stay_while_no_daemon_lives_keep_their_grants() -> None:
    wanted, others = "02:00:00:00:dd:01", "02:00:00:00:dd:02"
    with world(mtu=9000) as w:
        w.apply(w.vf(0), w.vf(1))
        for vfid, mac in enumerate((wanted, others)):
            w.guest(vfid)
            ip("-n", w.guests[vfid], "link", "set", "eth0", "address", mac, "mtu", "9000")
        w.settle()
        assert (w.mac(0), w.mac(1)) == (wanted, others)
        stays = w.nic.observe().vfs[1]
        w.nic.close()
        home = str(os.getpid())
        ip("-n", w.guests[0], "link", "set", "eth0", "down")
        ip("-n", w.guests[0], "link", "set", "eth0", "netns", home, "name", f"{w.id}b")
        w.nic = soft.open(w.pf)
        assert [e.vfid for e in w.settle() if e.kind is EventKind.GUEST_GONE] == [0]
        seen = w.nic.observe()
        assert seen.vfs[0].grants == Grants()
        assert seen.vfs[1] == stays
        shown = json.loads(ip("-j", "link", "show", f"{w.id}v0"))[0]
        assert (shown["address"], shown["mtu"]) == (w.mac(0), seen.vfs[0].mtu)
        assert shown["address"] != wanted
