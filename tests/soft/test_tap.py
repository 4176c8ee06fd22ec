"""A tap guest is a process that opens the VF by name, as QEMU does."""

from __future__ import annotations

import os
import select

from tests.soft.world import frame, world

from vfd.nic.protocol import EventKind
from vfd.nic.soft.tap import open_tap
from vfd.policy.requests import RequestKind

HEADER = bytes(10)
"""An empty virtio-net header."""


def heard(fd: int, wanted: bytes, seconds: float = 1.0) -> bool:
    """Whether the frame comes out of the tap."""
    while select.select([fd], [], [], seconds)[0]:
        if os.read(fd, 70000)[len(HEADER) :] == wanted:
            return True
    return False


def test_processes_talk_through_taps_with_virtio_net_headers() -> None:
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1, vlans=[7], strip_ctag=True, allow_untagged=False))
        a = open_tap(f"{w.id}v0")
        b = open_tap(f"{w.id}v1")
        try:
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
        finally:
            os.close(a)
            os.close(b)
        events = w.until(lambda e: e.kind is EventKind.GUEST_GONE)
        w.settle()
        assert not w.nic.observe().vfs[0].held


def test_a_virtual_machines_own_mac_is_a_request_told_by_its_frames() -> None:
    vm = "52:54:00:12:34:56"
    with world(guest="tap") as w:
        w.apply(w.vf(0), w.vf(1))
        a, b = open_tap(f"{w.id}v0"), open_tap(f"{w.id}v1")
        try:
            w.settle()
            os.write(a, HEADER + frame(w.mac(1), vm))
            w.until(lambda e: bool(e.request and e.request.kind is RequestKind.DEFAULT_MAC))
            assert w.mac(0) == vm
            again = frame(w.mac(1), vm, b"again")
            os.write(a, HEADER + again)
            assert heard(b, again)
        finally:
            os.close(a)
            os.close(b)


def test_taps_are_adopted() -> None:
    with world(guest="tap", vfs=3) as w:
        w.apply(w.vf(0), w.vf(1))
        before = w.nic.observe()
        w.reopen()
        assert w.nic.observe() == before
