"""Multicast groups that guests join, on kernels that don't tell of it (before 6.14)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab_soft.guests import vlan
from tests.soft.world import Tap, World, frame, ip, world

from vfd.nic.protocol import Event
from vfd.policy.requests import RequestKind

GROUPS = {"239.1.2.3/32": "01:00:5e:01:02:03", "ff05::1:2:3/128": "33:33:00:02:00:03"}
PEER = "02:00:00:00:01:02"


def asked(kind: RequestKind, mac: str) -> object:
    def wanted(event: Event) -> bool:
        return event.request is not None and event.request.kind is kind and event.request.mac == mac

    return wanted


@pytest.fixture
def pair() -> Iterator[tuple[World, Tap, Tap]]:
    """VF 1 sends, VF 0 gets only the multicast that it joined; both trunks of VLAN 100."""
    with world() as w:
        rules = {"vlans": (100,)}
        w.apply(w.vf(0, allow_mcast=False, **rules), w.vf(1, vm_mac=PEER, **rules))
        for vfid in (0, 1):
            w.guest(vfid)
        w.settle()
        yield w, w.port(1), w.port(0)


def reaches(out: Tap, into: Tap, mac: str, vid: int | None = None) -> bool:
    out.send(frame(mac, PEER, vid=vid))
    return bool(into.heard(0.3, count=1))


@pytest.mark.parametrize("address", GROUPS)
def test_a_joined_group_reaches_the_guest_until_it_leaves(
    pair: tuple[World, Tap, Tap], address: str
) -> None:
    w, out, into = pair
    mac = GROUPS[address]
    assert not reaches(out, into, mac)
    ip("-n", w.guests[0], "addr", "add", address, "dev", "eth0", "autojoin")
    w.until(asked(RequestKind.JOIN_GROUP, mac), seconds=10)  # type: ignore[arg-type]
    assert reaches(out, into, mac)
    w.reopen()
    w.settle()
    assert reaches(out, into, mac), "a new daemon must not take the group away"
    ip("-n", w.guests[0], "addr", "del", address, "dev", "eth0")
    w.until(asked(RequestKind.LEAVE_GROUP, mac), seconds=10)  # type: ignore[arg-type]
    assert not reaches(out, into, mac)


@pytest.mark.parametrize("address", GROUPS)
def test_a_group_joined_on_a_vlan_sub_interface_reaches_the_guest(
    pair: tuple[World, Tap, Tap], address: str
) -> None:
    w, out, into = pair
    mac = GROUPS[address]
    netdev = vlan(w.guests[0], 100, "10.6.0.1")
    w.settle()
    ip("-n", w.guests[0], "addr", "add", address, "dev", netdev, "autojoin")
    w.until(asked(RequestKind.JOIN_GROUP, mac), seconds=10)  # type: ignore[arg-type]
    assert reaches(out, into, mac, vid=100)
