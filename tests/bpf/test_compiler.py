"""A policy compiled step by step is the policy compiled at once."""

from __future__ import annotations

import time
from random import Random

import pytest
from tests.bpf.randoms import MACS, World, changed, random_world

from vfd.nic.soft.compiler import Compiled, compile_policy
from vfd.nic.soft.tables import Iface, Tables, Wiring
from vfd.policy.addresses import mac_bytes
from vfd.policy.requests import Grants, owners
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

VFS = 6
WALKS, STEPS = 60, 12
FEW = MACS[:8]
"""So few that VFs contend for them."""


@pytest.mark.measured
def test_256_full_trunks_are_compiled_in_a_second_and_one_more_in_a_moment() -> None:
    policies = [
        VfPolicy.model_validate(
            {"name": f"vm{vfid}", "pciid": "soft0", "vfid": vfid, "vlans": ["1-4094"]}
        )
        for vfid in range(256)
    ]
    pf = PfPolicy(id="soft0", vfs=256)
    wiring = Wiring(vfs={vfid: Iface(100 + vfid) for vfid in range(256)}, wire=9)
    start = time.perf_counter()
    before = Compiled().then(NicPolicy(pf=pf, vfs=tuple(policies[:-1])), {}, wiring)
    compiled = time.perf_counter()
    after = before.then(NicPolicy(pf=pf, vfs=tuple(policies)), {}, wiring)
    end = time.perf_counter()
    assert after.tables == compile_policy(NicPolicy(pf=pf, vfs=tuple(policies)), {}, wiring)
    assert compiled - start < 1
    assert end - compiled < 0.1


def test_tables_that_follow_changes_equal_tables_made_anew() -> None:
    seed = time.time_ns() // 1000
    for n in range(WALKS):
        rng = Random(seed + n)
        world = random_world(rng, VFS)
        compiled = Compiled()
        for step in range(STEPS):
            ports = _ports(rng)
            wiring = world.wiring({-1: 99, **ports}, shaper=7, shaped=frozenset(ports) & {0, 2})
            compiled = compiled.then(world.nic, world.grants, wiring)
            assert compiled.tables == compile_policy(world.nic, world.grants, wiring), (
                f"seed {seed + n}, step {step}"
            )
            world = _next(rng, world)


def test_every_mac_is_its_owners_and_nobody_elses() -> None:
    seed = time.time_ns() // 1000
    for n in range(WALKS):
        rng = Random(seed + n)
        world = random_world(rng, VFS)
        compiled = Compiled()
        for step in range(STEPS):
            world = _contended(rng, world)
            wiring = world.wiring({-1: 99, **{vfid: 10 + vfid for vfid in range(VFS)}})
            compiled = compiled.then(world.nic, world.grants, wiring)
            wanted = owners(world.nic, world.grants, world.own_macs)
            assert _owned(compiled.tables) == {mac_bytes(mac): v for mac, v in wanted.items()}, (
                f"seed {seed + n}, step {step}"
            )


def test_a_change_of_one_vf_leaves_what_others_have_as_it_is() -> None:
    vfs = [_vf(vfid, vlan=100 + vfid) for vfid in range(256)]
    wiring = Wiring(vfs={vfid: Iface(300 + vfid) for vfid in range(256)}, wire=None)
    nic = random_world(Random(1), VFS).nic.pf
    before = Compiled().then(NicPolicy(pf=nic, vfs=tuple(vfs)), {}, wiring)
    vfs[7] = _vf(7, vlan=4000)
    after = before.then(NicPolicy(pf=nic, vfs=tuple(vfs)), {}, wiring)
    assert [v for v in range(256) if after.parts[v] is not before.parts[v]] == [7]


def _vf(vfid: int, *, vlan: int) -> VfPolicy:
    return VfPolicy(name=f"vf{vfid}", pciid="soft0", vfid=vfid, vlans=(vlan,))


def _ports(rng: Random) -> dict[int, int]:
    """Now and then a VF's netdev is missing, or another one."""
    return {v: 10 + v + 100 * (rng.random() < 0.1) for v in range(VFS) if rng.random() > 0.1}


def _next(rng: Random, world: World) -> World:
    return random_world(rng, VFS) if rng.random() < 0.1 else changed(rng, world)


def _contended(rng: Random, world: World) -> World:
    """The same VFs; one of them claims MACs that others may own."""
    whose = rng.choice(world.nic.vfs)
    mine = {
        "vm_mac": rng.choice((None, rng.choice(FEW))),
        "macs": tuple(rng.sample(FEW, rng.choice((0, 1, 2)))),
    }
    vfs = tuple(
        vf.model_copy(update=mine) if vf is whose else vf
        for vf in world.nic.vfs
        if vf is not whose or rng.random() < 0.9 or len(world.nic.vfs) == 1
    )
    default = rng.choice((None, rng.choice(FEW)))
    granted = Grants(default_mac=default, macs=frozenset(rng.sample(FEW, 1)))
    return World(
        nic=world.nic.model_copy(update={"vfs": vfs}),
        grants={**world.grants, rng.choice(world.nic.vfs).vfid: granted},
        own_macs={**world.own_macs, rng.randrange(VFS): rng.choice(FEW)},
        has_wire=world.has_wire,
        wire_up=world.wire_up,
    )


def _owned(tables: Tables) -> dict[bytes, int]:
    return {
        key[:6]: (int.from_bytes(raw[6:8], "little") & 0xFFF) - 1
        for key, raw in tables.macs.items()
    }
