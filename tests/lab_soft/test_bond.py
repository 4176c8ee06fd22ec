"""The VNF of two VFs on two NICs, bonded in the guest: one wire is cut, traffic goes on."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

import pytest
from tests.lab_soft.bonds import active, make_bond, running
from tests.lab_soft.guests import Pinging, address, batch, pings, settle, until
from tests.soft.world import World, ip, world

from vfd.nic.soft import namespace

VNF_MAC = "02:00:00:00:02:01"
INTERVAL = 0.1
LOST = 15
"""Most pings lost while the bond fails over: 1.5 s on a machine that is 20 times slower; without
failover every one after the cut is."""


@pytest.fixture
def network() -> Iterator[tuple[World, World, str, str]]:
    """Two NICs, each with a wire to the same switch, which has an address; and a guest."""
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(world(vfs=1)) for _ in range(2))
        names = [f"n{secrets.token_hex(3)}" for _ in range(2)]
        for name in names:
            namespace.create(name)
            stack.callback(namespace.remove, name)
        switch, guest = names
        batch(switch, "link add br0 type bridge forward_delay 0", "link set br0 up")
        for number, w in enumerate((one, two)):
            far, uplink = f"wire{number}", f"{w.id}u"
            ip("link", "add", uplink, "type", "veth", "peer", "name", far, "netns", switch)
            batch(switch, f"link set {far} up", f"link set {far} master br0")
            w.pf = w.pf.model_copy(update={"uplink": uplink})
            w.apply()
        batch(switch, "link add link br0 name br0.100 type vlan id 100", "link set br0.100 up")
        address(switch, "10.9.0.1", "br0.100")
        yield one, two, switch, guest


@pytest.mark.parametrize("fail_over_mac", ["none", "active"])
def test_a_bonded_guest_goes_on_when_one_wire_is_cut(
    network: tuple[World, World, str, str], fail_over_mac: str
) -> None:
    one, two, switch, guest = network
    worlds = (one, two)
    mac = {"vm_mac": VNF_MAC} if fail_over_mac == "none" else {}
    for w in worlds:
        w.apply(
            w.vf(0, vlans=(100,), strip_ctag=True, allow_untagged=False, link_status="auto", **mac)
        )
        ip("link", "set", f"{w.id}v0", "netns", guest)
    members = [f"{w.id}v0" for w in worlds]
    settle(*worlds, seconds=0.5)
    make_bond(guest, members, "10.9.0.2/24", fail_over_mac=fail_over_mac)
    assert pings(guest, "10.9.0.1", *worlds)

    pinging = Pinging(guest, "10.9.0.1", INTERVAL)
    for cut in (0, 1):
        until("the cut wire to be in use", lambda: active(guest) in members, *worlds)
        batch(switch, f"link set wire{cut} down")
        other = members[1 - cut]
        until(f"the bond on {other}", lambda m=other: active(guest) == m, *worlds)  # type: ignore[misc]
        end = time.monotonic() + 1
        while time.monotonic() < end:
            settle(*worlds)
        batch(switch, f"link set wire{cut} up")
        until("both links up", lambda: all(running(guest, m) for m in members), *worlds)
    sent, answered = pinging.stop()
    assert sent > 20
    assert sent - answered <= 2 * LOST
    assert pings(guest, "10.9.0.1", *worlds), "traffic goes on"
