"""Guests that use VLAN sub-interfaces of the kernel's own, as VNFs do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from tests.lab_soft.guests import SILENCE, address, batch, pings, settle, vlan
from tests.soft.world import World, ip, world

from vfd.nic.soft import namespace


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[World, str]]:
    """A NIC of 3 VFs with a wire, and the namespace of the station at the wire's other end."""
    ip("link", "add", "vlanprobe", "type", "dummy")  # loads the module once, outside of any test
    ip("link", "add", "link", "vlanprobe", "name", "vlanprobe.1", "type", "vlan", "id", "1")
    ip("link", "del", "vlanprobe")
    with world(vfs=3, tpid=0x88A8, mtu=9000) as w:
        uplink, station = w.wire()
        w.pf = w.pf.model_copy(update={"uplink": uplink})
        w.apply()
        for vfid in range(3):
            w.guest(vfid)
        w.settle()
        try:
            yield w, station
        finally:
            w.apply(without=tuple(w.vfs))


@pytest.fixture
def fresh(wired: tuple[World, str]) -> Iterator[tuple[World, str]]:
    """The same with no VF configured and every guest's interface bare."""
    w, station = wired
    if w.vfs:
        w.apply(without=tuple(w.vfs))
    yield wired
    for netns in (*w.guests.values(), station):
        batch(netns, "addr flush dev eth0", "addr flush dev lo")
        for link in ip("-n", netns, "-br", "link", "show", "type", "vlan").splitlines()[::-1]:
            batch(netns, f"link del {link.split('@')[0]}")
    w.settle()


TRUNK = {"vlans": (100, 200), "allow_untagged": False}
ACCESS = {"vlans": (100,), "strip_ctag": True, "allow_untagged": False}
SERVICE = {"vlans": (300,), "strip_stag": True, "allow_untagged": False}


def test_guests_of_trunk_vfs_reach_each_other_in_each_vlan(fresh: tuple[World, str]) -> None:
    w, _ = fresh
    w.apply(w.vf(0, **TRUNK), w.vf(1, **TRUNK))
    for vid in TRUNK["vlans"]:  # type: ignore[attr-defined]
        vlan(w.guests[0], vid, f"10.0.{vid}.1")
        vlan(w.guests[1], vid, f"10.0.{vid}.2")
        assert pings(w.guests[0], f"10.0.{vid}.2", w)
    vlan(w.guests[0], 3, "10.0.3.1")
    vlan(w.guests[1], 3, "10.0.3.2")
    assert not pings(w.guests[0], "10.0.3.2", w, wait=SILENCE), "VLAN 3 is none of theirs"
    assert w.nic.counters()[0]["spoofed"] > 0


def test_a_trunk_guest_reaches_an_access_guest_and_the_wire(fresh: tuple[World, str]) -> None:
    w, station = fresh
    w.apply(w.vf(0, **TRUNK), w.vf(1, **ACCESS), w.vf(2, **{**ACCESS, "vlans": (200,)}))
    vlan(w.guests[0], 100, "10.1.0.1")
    address(w.guests[1], "10.1.0.2")
    address(w.guests[2], "10.1.0.4")
    vlan(station, 100, "10.1.0.3")
    assert pings(w.guests[0], "10.1.0.2", w)
    assert pings(w.guests[0], "10.1.0.3", w)
    assert pings(station, "10.1.0.2", w, size=1472)
    assert not pings(w.guests[0], "10.1.0.4", w, wait=SILENCE), "VF 2 is in VLAN 200"


def test_guests_own_vlans_pass_through_their_service_vlan(fresh: tuple[World, str]) -> None:
    w, station = fresh
    w.apply(w.vf(0, **SERVICE), w.vf(1, **SERVICE), w.vf(2, **{**SERVICE, "vlans": (301,)}))
    for vfid in range(3):
        vlan(w.guests[vfid], 100, f"10.2.0.{vfid + 1}")
    assert pings(w.guests[0], "10.2.0.2", w)
    assert not pings(w.guests[0], "10.2.0.3", w, wait=SILENCE), (
        "another tenant's VLAN 100 is another VLAN"
    )
    outer = vlan(station, 300, "", proto="802.1ad")
    vlan(station, 100, "10.2.0.9", below=outer)
    assert pings(w.guests[0], "10.2.0.9", w)
    assert pings(station, "10.2.0.2", w, size=1400)


def test_a_guests_own_stack_of_tags_passes_through_its_trunk(fresh: tuple[World, str]) -> None:
    w, station = fresh
    w.apply(w.vf(0, **TRUNK), w.vf(1, **TRUNK))
    for number, netns in enumerate((w.guests[0], w.guests[1], station), 1):
        vlan(netns, 7, f"10.3.0.{number}", below=vlan(netns, 100, ""))
    assert pings(w.guests[0], "10.3.0.2", w)
    assert pings(w.guests[0], "10.3.0.3", w)


def test_a_trunk_guest_can_not_put_on_a_service_tag(fresh: tuple[World, str]) -> None:
    w, station = fresh
    w.apply(w.vf(0, **TRUNK))
    vlan(w.guests[0], 100, "10.4.0.1", proto="802.1ad")
    vlan(station, 100, "10.4.0.2", proto="802.1ad")
    before = w.nic.counters()[0]["spoofed"]
    assert not pings(w.guests[0], "10.4.0.2", w, wait=SILENCE)
    assert w.nic.counters()[0]["spoofed"] > before


@pytest.mark.parametrize("rules", [TRUNK, ACCESS, SERVICE], ids=["trunk", "access", "service"])
def test_tcp_with_offloads_passes_from_guest_to_guest(
    fresh: tuple[World, str], rules: dict[str, object]
) -> None:
    w, _ = fresh
    w.apply(w.vf(0, **rules), w.vf(1, **rules))
    for vfid in (0, 1):
        if rules is ACCESS:
            address(w.guests[vfid], f"10.5.0.{vfid + 1}")
        else:
            vlan(w.guests[vfid], 100, f"10.5.0.{vfid + 1}")
    settle(w)
    before = w.nic.counters()
    size = 2_000_000
    assert transferred(w, size, "10.5.0.2") == size
    after = w.nic.counters()
    sent = after[0]["tx_packets"] - before[0]["tx_packets"]
    assert sent >= size // 1460, "segments are counted, not buffers"
    for name in ("spoofed", "oversize", "dropped_vlan"):
        assert after[0][name] == before[0][name]


def transferred(w: World, size: int, target: str) -> int:
    """Bytes that arrive of a TCP transfer from VF 0's guest to VF 1's."""
    with namespace.inside(w.guests[1]):
        listener = socket.create_server((target, 5001))
    with namespace.inside(w.guests[0]):
        client = socket.socket()
    got = [0]

    def take() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(20)
            while chunk := peer.recv(1 << 18):
                got[0] += len(chunk)

    with listener, client:
        listener.settimeout(20)
        client.settimeout(20)
        taker = threading.Thread(target=take)
        taker.start()
        client.connect((target, 5001))
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        taker.join()
    return got[0]
