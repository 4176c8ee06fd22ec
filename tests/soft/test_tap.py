"""A tap guest is a process that opens the VF by name, as QEMU does."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.soft.world import World, deafen, frame, ip, until_shown, world

import vfd.nic.soft as soft
from vfd.nic.protocol import Event, EventKind
from vfd.nic.soft.tap import open_tap
from vfd.policy.addresses import mac_bytes
from vfd.policy.requests import Grants, RequestKind

HEADER = bytes(10)
"""An empty virtio-net header."""


@contextmanager
def machine(w: World, vfid: int) -> Iterator[int]:
    """A virtual machine's end of a VF: what is written to it is sent, with a header before it."""
    guest = open_tap(f"{w.id}v{vfid}")
    try:
        yield guest
    finally:
        os.close(guest)


def heard(fd: int, wanted: bytes, seconds: float = 1.0) -> bool:
    """Whether the frame comes out of the tap."""
    while select.select([fd], [], [], seconds)[0]:
        if os.read(fd, 70000)[len(HEADER) :] == wanted:
            return True
    return False


def test_processes_talk_through_taps_with_virtio_net_headers() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1, vlans=[7], strip_ctag=True, allow_untagged=False))
        with machine(w, 0) as a, machine(w, 1) as b:
            events = w.settle()
            assert {e.vfid for e in events if e.kind is EventKind.GUEST_COME} == {0, 1}
            assert w.nic.observe().vfs[0].held
            sent = frame(w.mac(1), w.mac(0), vid=7)
            os.write(a, HEADER + sent)
            assert not heard(b, sent, 0.2), "VF 0 is in no VLAN"
            w.apply(w.vf(0, vlans=[7]))
            os.write(a, HEADER + sent)
            assert heard(b, frame(w.mac(1), w.mac(0)))
            assert w.nic.counters()[1]["rx_packets"] >= 1
        events = w.until(lambda e: e.kind is EventKind.GUEST_GONE)
        w.settle()
        assert not w.nic.observe().vfs[0].held


SEGMENTS = 10


def offloaded(source: str, to: str) -> bytes:
    """A segmentation-offload buffer of ``SEGMENTS`` TCP packets, as a virtual machine sends it."""
    payload = bytes(1000 * SEGMENTS)
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 1, 1, 0x50, 0x10, 1000, 0, 0)
    length = 20 + len(tcp) + len(payload)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 6, 0, bytes(4), bytes(4))
    needs_checksum, tcp_v4 = 1, 1
    header = struct.pack("=BBHHHH", needs_checksum, tcp_v4, 54, 1000, 34, 16)
    return header + mac_bytes(to) + mac_bytes(source) + b"\x08\x00" + ip + tcp + payload


@pytest.mark.measured
@pytest.mark.parametrize("enable_qos", [False, True])
def test_what_a_virtual_machines_rate_drops_is_counted_in_packets(enable_qos: bool) -> None:
    buffers = 3000
    with world(guest="tap", enable_qos=enable_qos, link_speed="10Gbps") as w:
        w.apply(w.vf(0, rate="100Mbps"), w.vf(1))
        with machine(w, 0) as a, machine(w, 1):
            w.settle()
            before = w.nic.counters()[0]
            sent = offloaded(w.mac(0), w.mac(1))
            for _ in range(buffers):
                os.write(a, sent)

            def moved() -> dict[str, int]:
                return {name: now - before[name] for name, now in w.nic.counters()[0].items()}

            deadline = time.monotonic() + 10
            while (now := moved())["tx_packets"] + now["tx_dropped"] < SEGMENTS * buffers:
                assert time.monotonic() < deadline, now
                time.sleep(0.05)
            assert now["tx_packets"] + now["tx_dropped"] == SEGMENTS * buffers
            assert now["rate_dropped"] == now["tx_dropped"] > SEGMENTS * 1000


def test_a_virtual_machines_own_mac_is_a_request_told_by_its_frames() -> None:
    vm = "52:54:00:12:34:56"
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as a, machine(w, 1) as b:
            w.settle()
            os.write(a, HEADER + frame(w.mac(1), vm))
            w.until(lambda e: bool(e.request and e.request.kind is RequestKind.DEFAULT_MAC))
            assert w.mac(0) == vm
            again = frame(w.mac(1), vm, b"again")
            os.write(a, HEADER + again)
            assert heard(b, again)


def igmp(source: str, kind: int, group: str) -> bytes:
    """An IGMPv2 message (RFC 2236): 0x16 joins, 0x17 leaves."""
    ip = struct.pack("!BBHHHBBH", 0x46, 0, 32, 0, 0, 1, 2, 0) + bytes(8) + b"\x94\x04\0\0"
    report = struct.pack("!BBH", kind, 0, 0) + socket.inet_aton(group)
    to = "01:00:5e:" + ":".join(f"{octet:02x}" for octet in socket.inet_aton(group)[1:])
    return mac_bytes(to) + mac_bytes(source) + b"\x08\x00" + (ip + report).ljust(46, b"\0")


def asks(kind: RequestKind) -> Callable[[Event], bool]:
    return lambda event: event.request is not None and event.request.kind is kind


def test_a_virtual_machine_joins_and_leaves_groups_by_its_reports() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0, allow_mcast=False), w.vf(1))
        with machine(w, 0) as a, machine(w, 1) as b:
            w.settle()
            to_group = frame("01:00:5e:01:02:03", w.mac(1))
            os.write(b, HEADER + to_group)
            assert not heard(a, to_group, 0.2)
            os.write(a, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            w.until(asks(RequestKind.JOIN_GROUP))
            os.write(b, HEADER + to_group)
            assert heard(a, to_group)
            w.reopen()
            w.settle()
            os.write(b, HEADER + to_group)
            assert heard(a, to_group), "a new daemon takes nothing away"
            os.write(a, HEADER + igmp(w.mac(0), 0x17, "239.1.2.3"))
            w.until(asks(RequestKind.LEAVE_GROUP))
            os.write(b, HEADER + to_group)
            assert not heard(a, to_group, 0.2)
            os.write(a, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            w.until(asks(RequestKind.JOIN_GROUP))
        w.until(lambda e: e.kind is EventKind.GUEST_GONE and e.vfid == 0)
        assert not w.nic.observe().vfs[0].grants.groups, "the next guest starts without"


def test_a_machine_that_has_the_vfs_mac_asks_for_further_ones_beside_it() -> None:
    """As one does that runs containers: its own frames must go on."""
    inner = "52:54:00:12:34:56"
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as a, machine(w, 1) as b:
            w.settle()
            own = w.mac(0)
            os.write(a, HEADER + frame(w.mac(1), own))
            assert heard(b, frame(w.mac(1), own))
            os.write(a, HEADER + frame(w.mac(1), inner))
            w.until(asks(RequestKind.ADD_MAC))
            for source in (own, inner):
                os.write(a, HEADER + frame(w.mac(1), source, b"again"))
                assert heard(b, frame(w.mac(1), source, b"again"))


def test_a_machine_whose_mac_is_forced_asks_for_further_ones_and_has_them_when_it_may() -> None:
    forced, inner = "02:00:00:00:00:77", "52:54:00:12:34:56"
    with world(guest="tap") as w:
        w.apply(w.vf(0, vm_mac=forced, guest_macs="none"), w.vf(1))
        with machine(w, 0) as a, machine(w, 1):
            w.settle()
            os.write(a, HEADER + frame(w.mac(1), inner))
            w.until(asks(RequestKind.ADD_MAC))
            assert not w.nic.observe().vfs[0].grants.macs
            w.apply(w.vf(0, vm_mac=forced, guest_macs="any"))
            assert w.nic.observe().vfs[0].grants.macs == {inner}


def test_taps_are_adopted() -> None:
    with world(guest="tap", vfs=3) as w:
        w.apply(w.vf(0), w.vf(1))
        before = w.nic.observe()
        w.reopen()
        assert w.nic.observe() == before


def granted(w: World, guest: int) -> None:
    """VF 0's machine, which holds ``guest``, has a further MAC."""
    w.settle()
    os.write(guest, HEADER + frame(w.mac(1), "52:54:00:12:34:56"))
    w.until(lambda e: e.request is not None)
    assert w.nic.observe().vfs[0].grants != Grants()


def test_a_machine_that_goes_just_before_a_repair_leaves_no_grants() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as guest:
            granted(w, guest)
            tc = ["tc", "qdisc", "del", "dev", f"{w.id}v1", "clsact"]
            subprocess.run(tc, check=True)
            w.until(lambda e: e.kind is EventKind.DRIFT)
        w.apply()
        w.until(lambda e: e.kind is EventKind.GUEST_GONE and e.vfid == 0)
        seen = w.nic.observe().vfs[0]
        assert seen.grants == Grants()
        assert not seen.held


def test_a_machine_that_goes_while_notifications_are_lost_leaves_no_grants() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as guest:
            granted(w, guest)
            deafen(f"{w.id}v1")
        until_shown("NO-CARRIER", f"{w.id}v0")
        events = w.settle()
        assert EventKind.OVERRUN in [e.kind for e in events]
        assert [e.vfid for e in events if e.kind is EventKind.GUEST_GONE] == [0]
        assert w.nic.observe().vfs[0].grants == Grants()


def test_a_machine_that_another_one_follows_at_once_leaves_it_no_grants() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as guest:
            granted(w, guest)
        with machine(w, 0):
            events = w.until(lambda e: e.kind is EventKind.GUEST_COME)
            assert EventKind.GUEST_GONE in [e.kind for e in events]
            seen = w.nic.observe().vfs[0]
            assert seen.grants == Grants()
            assert seen.held


def test_a_machine_that_goes_while_no_daemon_lives_leaves_no_grants() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as guest:
            granted(w, guest)
            w.nic.close()
        w.nic = soft.open(w.pf)
        assert [e.vfid for e in w.settle() if e.kind is EventKind.GUEST_GONE] == [0]
        assert w.nic.observe().vfs[0].grants == Grants()
        shown = json.loads(ip("-j", "link", "show", f"{w.id}v0"))[0]["address"]
        assert shown == w.mac(0)


def test_a_machine_that_comes_while_a_daemon_starts_is_seen() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        began = time.monotonic()
        w.reopen()
        took = time.monotonic() - began
        guests: list[int] = []
        for n in range(16):  # at different moments on the way
            w.nic.close()
            comes = threading.Timer(took * n / 16, lambda: guests.append(open_tap(f"{w.id}v0")))
            comes.start()
            w.nic = soft.open(w.pf)
            comes.join()
            try:
                w.settle()
                assert w.nic.observe().vfs[0].held
            finally:
                os.close(guests.pop())


def test_a_group_that_a_machine_was_refused_is_asked_for_again_when_policy_changes() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0, allow_mcast=False, guest_groups=False), w.vf(1))
        with machine(w, 0) as guest:
            granted(w, guest)
            further = w.nic.observe().vfs[0].grants
            os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            w.until(asks(RequestKind.JOIN_GROUP))
            assert w.nic.observe().vfs[0].grants == further
            w.apply(w.vf(0, allow_mcast=False))
            w.settle()
            now = w.nic.observe().vfs[0].grants
            assert now == replace(further, groups=frozenset({"01:00:5e:01:02:03"}))


def test_a_machine_keeps_its_further_macs_when_it_joins_a_group_of_a_new_daemon() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        with machine(w, 0) as guest:
            w.settle()
            os.write(guest, HEADER + frame(w.mac(1), w.mac(0)))
            granted(w, guest)
            macs = w.nic.observe().vfs[0].grants.macs
            assert macs
            w.reopen()
            w.settle()
            os.write(guest, HEADER + igmp(w.mac(0), 0x16, "239.1.2.3"))
            w.until(asks(RequestKind.JOIN_GROUP))
            w.settle()
            assert w.nic.observe().vfs[0].grants.macs == macs
