"""A container on a veth may attach native XDP to its eth0, and raise its MTU, as on a real NIC.

veth takes a native program only while the host end's MTU fits a page (drivers/net/veth.c,
veth_xdp_set), and the shortcut into the guest's end, bpf_redirect_peer, passes the program by.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from tests.soft.world import Tap, World, frame, ip, world

import vfd.nic.soft as soft
from vfd.nic.netlink import Message, Netlink, NetlinkError, attr_u32, nest
from vfd.nic.soft import namespace

_LIBC = ctypes.CDLL(None, use_errno=True)
_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_PROG_LOAD, _XDP = 5, 6
PASS, DROP = 2, 1
_SETLINK, _IFLA_XDP, _XDP_FD, _XDP_FLAGS = 19, 43, 1, 3
_DRIVER_MODE = 1 << 2
FIRST, SECOND = "02:00:00:00:11:00", "02:00:00:00:11:01"


def program(verdict: int) -> int:
    """A descriptor of an XDP program that returns this: ``r0 = verdict; exit``."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    buffers = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    insns, licence = (ctypes.addressof(buffer) for buffer in buffers)
    request = ctypes.create_string_buffer(struct.pack("=IIQQ", _XDP, 2, insns, licence), 128)
    fd = int(_LIBC.syscall(_BPF, _PROG_LOAD, request, 128))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "loading an XDP program")
    return fd


def attach(guest: str, fd: int) -> None:
    """Natively, to the guest's eth0, from inside; -1 takes it off."""
    with namespace.inside(guest):
        index = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex("eth0"), 0, 0)
        netlink = Netlink()
    xdp = nest(
        _IFLA_XDP,
        struct.pack("=HHi", 8, _XDP_FD, fd) + attr_u32(_XDP_FLAGS, _DRIVER_MODE),
    )
    try:
        netlink.send([Message(_SETLINK, index + xdp, what="attaching XDP")])
    finally:
        netlink.close()


def _pair(mtu: int) -> Iterator[World]:
    with world(mtu=mtu, default_mtu=1500) as w:
        w.apply(w.vf(0, vm_mac=FIRST), w.vf(1, vm_mac=SECOND))
        w.guest(0, silent=True)
        w.guest(1, silent=True)
        w.settle()
        yield w


@pytest.fixture
def pair() -> Iterator[World]:
    """All have one MTU, so that frames take the shortcut into guests."""
    yield from _pair(1500)


@pytest.fixture
def jumbo() -> Iterator[World]:
    """Guests may ask for more than they have."""
    yield from _pair(9000)


def sent(sender: Tap, receiver: Tap, size: int, count: int = 5) -> int:
    """How many of ``count`` frames with that payload arrive at VF 0 from VF 1."""
    for number in range(count):
        sender.send(frame(FIRST, SECOND, bytes([number]) * size))
    return len([raw for raw in receiver.heard(0.2) if len(raw) == 14 + size])


def counted(w: World, vfid: int, counter: str) -> int:
    return w.nic.counters()[vfid][counter]


def test_a_guest_attaches_native_xdp_and_every_frame_meets_it(pair: World) -> None:
    one, two = pair.port(0), pair.port(1)
    assert sent(two, one, 1400) == 5
    attach(pair.guests[0], program(PASS))
    assert "xdp" in ip("-n", pair.guests[0], "link", "show", "eth0")
    pair.settle()
    assert sent(two, one, 1400) == 5
    one.send(frame(SECOND, FIRST, b"back" * 20))
    assert len(two.heard(0.2)) == 1
    attach(pair.guests[0], program(DROP))
    assert sent(two, one, 1400) == 0
    attach(pair.guests[0], -1)
    pair.settle()
    assert sent(two, one, 1400) == 5


def test_what_is_too_large_is_counted_with_xdp_and_without(jumbo: World) -> None:
    two = jumbo.port(1)
    ip("-n", jumbo.guests[1], "link", "set", "eth0", "mtu", "9700")  # refused: the PF's is 9000
    jumbo.settle()
    for count, size in enumerate((1501, 3000, 3600, 9600), 1):
        two.send(frame(FIRST, SECOND, bytes(size)))
        assert counted(jumbo, 1, "oversize") == count, size
    ip("-n", jumbo.guests[1], "link", "set", "eth0", "mtu", "3000")  # granted, but let it be too
    jumbo.settle()
    attach(jumbo.guests[1], program(PASS))
    two.send(frame(FIRST, SECOND, bytes(1501)))
    ip("-n", jumbo.guests[1], "link", "set", "eth0", "mtu", "1500")
    jumbo.settle()
    assert counted(jumbo, 1, "tx_packets") == 1


def test_a_guest_that_raises_its_mtu_sends_jumbo_frames_and_may_go_back_to_xdp(
    jumbo: World,
) -> None:
    one, two = jumbo.port(0), jumbo.port(1)
    for vfid in (0, 1):
        ip("-n", jumbo.guests[vfid], "link", "set", "eth0", "mtu", "9000")
    jumbo.settle()
    assert sent(two, one, 8900) == 5
    with pytest.raises(NetlinkError) as refused:
        attach(jumbo.guests[0], program(PASS))  # one that takes no frame in pieces
    assert refused.value.errno == errno.ERANGE
    ip("-n", jumbo.guests[0], "link", "set", "eth0", "mtu", "1500")
    jumbo.settle()
    attach(jumbo.guests[0], program(PASS))
    jumbo.settle()
    assert sent(two, one, 1400) == 5


def test_a_guest_with_xdp_asks_for_a_larger_mtu_in_vain_and_loses_nothing(jumbo: World) -> None:
    one, two = jumbo.port(0), jumbo.port(1)
    attach(jumbo.guests[0], program(PASS))
    jumbo.settle()
    ip("-n", jumbo.guests[0], "link", "set", "eth0", "mtu", "9000")
    jumbo.settle()
    assert sent(two, one, 1400) == 5
    one.send(frame(SECOND, FIRST, bytes(1400)))
    assert len(two.heard(0.2)) == 1
    attach(jumbo.guests[0], -1)
    jumbo.settle()
    one.send(frame(SECOND, FIRST, bytes(8900)))  # now there is room for what was granted
    assert counted(jumbo, 0, "tx_packets") == 2


def test_a_vf_with_a_large_mtu_needs_nobody_who_listens(jumbo: World) -> None:
    """Its guest may raise its MTU while no daemon runs."""
    jumbo.apply(jumbo.vf(1, vm_mac=SECOND, mtu=9000))
    jumbo.settle()
    two = jumbo.port(1)
    ip("-n", jumbo.guests[1], "link", "set", "eth0", "mtu", "9000")
    two.send(frame(FIRST, SECOND, bytes(8900)))
    assert counted(jumbo, 1, "tx_packets") == 1


def test_a_daemon_that_starts_finds_the_xdp_that_guests_attached_meanwhile(pair: World) -> None:
    one, two = pair.port(0), pair.port(1)
    pair.nic.close()
    attach(pair.guests[0], program(DROP))
    pair.nic = soft.open(pair.pf)
    pair.settle()
    assert sent(two, one, 1400) == 0
