"""Where the program guesses first: a guess that is wrong costs time, and never a frame's way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from tests.bpf.randoms import COLLIDING, MACS, NO_MAC, World, colliding
from tests.bpf.rig import Rig
from tests.bpf.test_differential import UNSPEC
from tests.bpf.test_steps import step_by_step

from vfd.nic.soft import layout
from vfd.nic.soft.compiler import compile_policy
from vfd.nic.soft.tables import Tables
from vfd.policy.addresses import mac_bytes
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

VFS = 5
OWN_MACS = {0: MACS[0], 1: MACS[1], 2: MACS[2], 3: MACS[3], 4: COLLIDING}

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(VFS) as rig:
        yield rig


def world(**rules: Mapping[str, object]) -> World:
    """Five VFs without VLANs; ``vf0={...}``: what VF 0 has besides."""
    vfs = tuple(
        VfPolicy.model_validate(
            {
                "name": f"vf{vfid}",
                "pciid": "soft0",
                "vfid": vfid,
                "allow_untagged": True,
                **rules.get(f"vf{vfid}", {}),
            }
        )
        for vfid in range(VFS)
    )
    pf = PfPolicy(id="soft0", vfs=VFS, mtu=3000, default_mtu=1500, enable_loopback=True)
    return World(NicPolicy(pf=pf, vfs=vfs), {}, OWN_MACS, has_wire=True, wire_up=True)


def tables(rig: Rig, world: World) -> Tables:
    return compile_policy(world.nic, world.grants, world.wiring(rig.ifindex))


def frame(to: str, source: str, length: int = 60) -> bytes:
    return (mac_bytes(to) + mac_bytes(source) + b"\x88\xb5").ljust(length, b"x")


def takes_the_short_way(rig: Rig, port: int, sent: bytes) -> bool:
    verdict, _ = rig.send(port, sent, path=layout.PATH_PLAIN)
    rig.drain()
    return verdict != UNSPEC


def test_every_default_mac_is_found_by_its_hint_but_one_of_two_at_the_same_place(rig: Rig) -> None:
    rig.enforce(tables(rig, world()))
    short = {
        to: takes_the_short_way(rig, port, frame(OWN_MACS[to], OWN_MACS[port]))
        for to, port in enumerate((1, 2, 3, 4, 1))
    }
    assert short == {0: True, 1: True, 2: True, 3: True, 4: False}
    for to in (0, 4):
        sent = frame(OWN_MACS[to], OWN_MACS[1])
        assert rig.through(1, sent) == [(to, sent)]


def test_when_the_other_of_two_at_one_place_goes_the_hint_is_the_ones_that_is_left(
    rig: Rig,
) -> None:
    rig.enforce(tables(rig, world(vf0={"vm_mac": MACS[9]})))
    assert takes_the_short_way(rig, 1, frame(COLLIDING, OWN_MACS[1]))
    assert takes_the_short_way(rig, 1, frame(MACS[9], OWN_MACS[1]))
    rig.enforce(tables(rig, world()))
    assert not takes_the_short_way(rig, 1, frame(COLLIDING, OWN_MACS[1]))


def test_hints_that_are_all_wrong_lead_nothing_astray_and_are_put_right_with_the_next_write(
    rig: Rig,
) -> None:
    """An older vfd changes MACs and knows nothing of hints."""
    without = world(vf0={"allow_un_ucast": True}, vf3={"vm_mac": OWN_MACS[0]})
    rig.enforce(tables(rig, without))
    rig.veb.maps["veb_hints"].put_all(
        (at.to_bytes(4, layout.ORDER), (1 + at % VFS).to_bytes(2, layout.ORDER))
        for at in range(layout.HINTS)
    )
    for to, mac in {3: OWN_MACS[0], 2: OWN_MACS[2], 4: COLLIDING}.items():
        sent = frame(mac, OWN_MACS[1])
        assert rig.through(1, sent) == [(to, sent)]
    sent = frame(NO_MAC, OWN_MACS[1])  # VF 0's hint, and it has none
    assert rig.through(1, sent) == [(-1, sent), (0, sent)]
    wanted = tables(rig, world(vf3={"mtu": 1400}))
    rig.veb.apply(())  # what another wrote is not what this one remembers
    rig.enforce(wanted)
    assert rig.veb.read().hints == wanted.hints


def test_a_port_is_found_by_its_ifindex_alone_where_that_is_the_likely_one(rig: Rig) -> None:
    rig.enforce(replace(tables(rig, world()), ifaces={}))
    heard = {port: rig.through(port, frame(OWN_MACS[0], OWN_MACS[port])) for port in range(1, VFS)}
    assert [port for port, out in heard.items() if out] == [1, 2]


@pytest.mark.parametrize("macs", [MACS[11:13], (MACS[11], colliding(MACS[11]))], ids=str)
def test_a_mac_that_changes_hands_is_nobodys_for_the_short_way_too(
    rig: Rig, macs: tuple[str, str]
) -> None:
    """VF 0 may send longer frames from the moment in which VFs 1 and 2 exchange their MACs. At no
    step does a long one come to who had the MAC before."""
    one, two = ({"vm_mac": mac} for mac in macs)
    sent = [
        (port, frame(to, OWN_MACS[port], length))
        for port in (0, 3)
        for to in macs
        for length in (60, 2000)
    ]
    before = world(vf0={"mtu": 1500}, vf1=one, vf2=two)
    after = world(vf0={"mtu": 3000}, vf1=two, vf2=one)
    step_by_step(rig, before, after, sent, "exchange")
    step_by_step(rig, after, before, sent, "exchange back")
