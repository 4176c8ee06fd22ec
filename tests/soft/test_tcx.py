"""Where the kernel has TCX (6.6 and newer) VFs' frames come to the program there, too. clsact goes
on enforcing alone wherever that hook isn't; where the kernel has none these tests show that."""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.bpf.test_load import compiled
from tests.soft.tcx_hooks import (
    HAS_TCX,
    among_host_ends,
    clsact_program,
    detach,
    hooks,
    host_end,
    put_before,
    wanted,
)
from tests.soft.test_life import talk
from tests.soft.world import BROADCAST, World, frame, world

import vfd.nic.soft as soft
from vfd.nic.netlink import Netlink
from vfd.nic.soft import datapath, layout, libbpf, namespace, rtnl
from vfd.nic.soft.vebmaps import Veb

GUESTS = pytest.mark.parametrize("guest", ["veth", "tap"], ids=["a veth", "a tap"])
STRANGER = "02:00:00:00:99:99"

OTHER = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int other(struct __sk_buff *skb)
{
    return %d;
}
char _license[] SEC("license") = "Dual BSD/GPL";
"""
PASSES, LEAVES_IT_TO_THE_NEXT = 0, -1
ROOM = 63
"""Programs that one hook takes."""


@contextlib.contextmanager
def talking(vfs: int = 2) -> Iterator[World]:
    """VFs 0 and 1 have guests, who may talk as themselves alone; all hooks are there."""
    with world(vfs=vfs) as w:
        w.apply(*(w.vf(n, vm_mac=f"02:00:00:00:01:{n:02x}") for n in range(vfs)))
        w.guest(0, silent=True)
        w.guest(1, silent=True)
        w.settle()
        until_hooked(w, range(vfs))
        yield w


def until_hooked(w: World, vfids: Iterable[int] = (0, 1)) -> None:
    """Once the NIC asks for nothing more (one of taps does for all that happens on a busy host) the
    VFs' hooks have clsact's program and nothing else is hooked."""
    end = time.monotonic() + 10
    while heard(w, 0.15) and time.monotonic() < end:
        pass
    assert hooks(w.id) == wanted(w.id, vfids)


def heard(w: World, seconds: float) -> bool:
    """As a daemon does: events are taken and answered when the NIC's descriptor asks for it."""
    if not select.select([w.nic.fileno()], [], [], seconds)[0]:
        return False
    for event in w.nic.events():
        w.answer(event)
    return True


def obeys(w: World) -> None:
    """Frames of VF 0 pass, those of a false source don't, and each is counted once."""
    before = w.nic.counters()
    assert talk(w, 0, 1) == 10
    out, into = w.port(0), w.port(1)
    for _ in range(10):
        out.send(frame(w.mac(1), STRANGER))
    assert into.heard() == []
    out.close()
    into.close()
    after = w.nic.counters()
    moved = {
        (vfid, name): after[vfid][name] - before[vfid][name]
        for vfid, name in ((0, "tx_packets"), (0, "spoofed"), (0, "tx_dropped"), (1, "rx_packets"))
    }
    assert set(moved.values()) == {10}, moved


def remove_all(w: World) -> None:
    with among_host_ends(w.id) as netdevs:
        for name in hooks(w.id):
            detach(netdevs[name])
    assert hooks(w.id) == {}


@GUESTS
def test_the_program_comes_to_the_hook_of_every_vf_and_of_nothing_else(guest: str) -> None:
    with world(vfs=5, guest=guest) as w:
        uplink, _ = w.wire()
        pf = w.pf.model_copy(update={"uplink": uplink})
        w.apply(*(w.vf(n) for n in range(5)), pf=pf)
        until_hooked(w, range(5))


def test_hooks_come_one_by_one_between_other_work_and_hold_nothing_up() -> None:
    with world(vfs=12) as w:
        w.apply(*(w.vf(n) for n in range(12)))
        there = [len(hooks(w.id))]
        assert there == [0], "the change waited for hooks"
        while select.select([w.nic.fileno()], [], [], 0.15)[0]:
            w.nic.events()
            there.append(len(hooks(w.id)))
        assert all(after - before <= 1 for before, after in pairwise(there))
        assert there[-1] == (12 if HAS_TCX else 0)


@GUESTS
def test_a_vf_that_is_made_later_has_its_hook_and_one_that_goes_leaves_none(guest: str) -> None:
    with world(vfs=2, guest=guest) as w:
        w.apply(pf=w.pf.model_copy(update={"vfs": 4}))
        until_hooked(w, range(4))
        w.apply(pf=w.pf.model_copy(update={"vfs": 1}))
        until_hooked(w, [0])


def test_a_vf_that_is_made_anew_after_its_guest_went_has_its_hook_again() -> None:
    with talking() as w:
        namespace.remove(w.guests[1])
        w.until(lambda e: e.kind == "vf-reset")
        until_hooked(w)


def test_each_frame_is_judged_and_counted_once() -> None:
    with talking() as w:
        obeys(w)


def test_clsact_alone_enforces_and_follows_changes_when_somebody_takes_the_hooks_away() -> None:
    with talking() as w:
        remove_all(w)
        obeys(w)
        w.apply(w.vf(1, allow_bcast=False))
        out, into = w.port(0), w.port(1)
        out.send(frame(BROADCAST, w.mac(0)))
        assert into.heard() == []
        w.apply(w.vf(1, vlans=[7], allow_untagged=False))
        assert talk(w, 0, 1) == 0
        w.apply(w.vf(1))
        obeys(w)


def test_hooks_that_somebody_took_away_are_back_when_the_daemon_starts_again() -> None:
    with talking() as w:
        remove_all(w)
        w.reopen()
        until_hooked(w)
        obeys(w)


def test_hooks_that_somebody_took_away_are_back_when_the_nic_is_repaired() -> None:
    with talking() as w:
        remove_all(w)
        with among_host_ends(w.id):
            subprocess.run(["tc", "qdisc", "del", "dev", "v1", "clsact"], check=True)
        w.settle()
        w.apply()
        until_hooked(w)
        obeys(w)


def test_a_newer_daemon_puts_its_program_at_all_hooks_before_it_does_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with talking(4) as w:
        old = clsact_program(w.id)
        w.nic.close()
        monkeypatch.setattr(datapath, "program_version", lambda: "veb-00000000")
        w.open_again()
        assert clsact_program(w.id) != old
        assert hooks(w.id) == wanted(w.id, range(4))
        obeys(w)


def test_a_daemon_killed_between_the_two_kinds_of_hook_leaves_what_the_next_one_finishes() -> None:
    """Its program is at clsact's hook already, and TCX has the one of before."""
    with talking() as w:
        w.nic.close()
        old = clsact_program(w.id)
        veb = Veb.adopt(old)
        newer = Veb.load(reuse=veb)
        with among_host_ends(w.id):
            netlink = Netlink()
        netlink.send([rtnl.bpf_filter(2, newer.ingress.fd, datapath.program_version())])
        netlink.close()
        for each in (veb, newer):
            each.close()
        assert clsact_program(w.id) != old
        w.open_again()
        assert hooks(w.id) == wanted(w.id, (0, 1))
        obeys(w)


KILLED_MIDWAY = """
import os, select, signal, sys
import vfd.nic.soft as soft
from tests.soft.world import World
from vfd.policy.values import PfPolicy
pf = PfPolicy(id=sys.argv[1], backend="soft", vfs=9, enable_loopback=True)
w = World(sys.argv[1], pf, soft.open(pf))
w.apply(*(w.vf(v) for v in range(9)))
for _ in range(int(sys.argv[2])):
    select.select([w.nic.fileno()], [], [], 1)
    w.nic.events()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_daemon_killed_while_hooks_come_leaves_what_the_next_one_finishes() -> None:
    with world(vfs=0) as w:
        w.nic.close()
        killed = subprocess.run([sys.executable, "-c", KILLED_MIDWAY, w.id, "4"], check=False)
        assert killed.returncode == -signal.SIGKILL
        there = len(hooks(w.id))
        assert 0 < there < 9 if HAS_TCX else there == 0
        w.pf = w.pf.model_copy(update={"vfs": 9})
        w.open_again()
        until_hooked(w, range(9))
        w.apply(w.vf(0), w.vf(1))
        w.guest(0, silent=True)
        w.guest(1, silent=True)
        w.settle()
        obeys(w)


def test_before_maps_of_another_layout_come_into_force_no_hook_has_the_former_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with talking() as w:
        sent = frame(w.mac(1), w.mac(0))
        w.nic.close()
        monkeypatch.setattr(layout, "LAYOUT", layout.LAYOUT + 1)
        w.open_again()
        w.settle()
        assert hooks(w.id) == {}
        into = w.port(1)
        w.port(0).send(sent)
        assert into.heard(count=1) == [sent], "clsact goes on with the former program and policy"
        w.apply()
        until_hooked(w)
        obeys(w)


def test_a_nic_whose_filter_is_gone_when_a_daemon_starts_is_closed_at_all_hooks() -> None:
    with talking() as w:
        w.nic.close()
        with among_host_ends(w.id):
            subprocess.run(["tc", "filter", "del", "block", "2"], check=True)
        w.nic = soft.open(w.pf)
        assert hooks(w.id) == {}
        out, into = w.port(0), w.port(1)
        out.send(frame(BROADCAST, STRANGER))
        assert into.heard() == []
        w.apply()
        until_hooked(w)
        obeys(w)


@pytest.mark.skipif(not HAS_TCX, reason="this kernel has no TCX: nobody can be there either")
def test_another_ones_program_is_told_and_stands_before_the_nics_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = libbpf.load(compiled(tmp_path, OTHER % PASSES))
    other = loaded.programs["other"]
    try:
        with talking() as w:
            with among_host_ends(w.id) as netdevs:
                put_before(netdevs[host_end(w.id, 0)], other.fd)
            assert talk(w, 0, 1) == 0
            with caplog.at_level(logging.WARNING):
                w.reopen()
                w.settle()
            assert hooks(w.id)[host_end(w.id, 0)] == [clsact_program(w.id), other.id]
            assert f"VF 0 of {w.id}: BPF program {other.id} stood before" in caplog.text
            assert "VF 1" not in caplog.text
            obeys(w)
    finally:
        loaded.close()


@pytest.mark.skipif(not HAS_TCX, reason="this kernel has no TCX to be full")
def test_hooks_that_have_no_room_are_told_once_and_clsact_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = compiled(tmp_path, OTHER % LEAVES_IT_TO_THE_NEXT)
    others = [libbpf.load(raw) for _ in range(ROOM)]
    try:
        with talking() as w:
            w.nic.close()
            remove_all(w)
            with among_host_ends(w.id) as netdevs:
                for one in others:
                    for vfid in (0, 1):
                        put_before(netdevs[host_end(w.id, vfid)], one.programs["other"].fd)
            with caplog.at_level(logging.WARNING):
                w.open_again()
                w.settle()
            assert caplog.text.count("goes on with clsact alone") == 1
            obeys(w)
    finally:
        for one in others:
            one.close()
