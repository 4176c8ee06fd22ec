"""A policy compiled step by step is the policy compiled at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest
from tests.amount import drawn
from tests.bpf.randoms import MACS, World, changed, random_world

from vfd.nic.soft.compiler import Compiled, compile_policy
from vfd.nic.soft.tables import Iface, Tables, Wiring
from vfd.policy.addresses import mac_bytes
from vfd.policy.requests import Grants, owners
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

VFS = 6
WALKS, STEPS = drawn(60), 12
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


OWN = ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
CONTENDED, GROUP = "02:00:00:00:01:01", "01:00:5e:00:00:01"
CLAIMS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "own": {"own": CONTENDED},
    "closed": {"own": CONTENDED, "closed": True},
    "granted": {"grants": Grants(macs=frozenset({CONTENDED}))},
    "granted as default": {"grants": Grants(default_mac=CONTENDED)},
    "forced": {"vm_mac": CONTENDED},
    "listed": {"vm_mac": OWN[0], "macs": [CONTENDED]},
}
"""How a VF may claim a MAC."""
RULES: Mapping[str, Mapping[str, Any]] = {
    "VLAN 1": {},
    "VLANs 1 and 2": {"vlans": [1, 2]},
    "service VLAN 1": {"strip_stag": True},
    "untagged": {"vlans": [], "allow_untagged": True},
    "no broadcast": {"allow_bcast": False},
    "multicast": {"allow_mcast": True, "allow_un_ucast": True},
    "a group": {"grants": Grants(groups=frozenset({GROUP}))},
    "closed": {"closed": True},
}
WIRED = Wiring(vfs={0: Iface(10), 1: Iface(11)}, wire=99)
WIRINGS = {
    "plain": WIRED,
    "without VF 0": replace(WIRED, vfs={1: Iface(11)}),
    "another VF 0": replace(WIRED, vfs={0: Iface(12), 1: Iface(11)}),
    "netdevs changed": replace(WIRED, vfs={0: Iface(11), 1: Iface(10)}),
    "a tap": replace(WIRED, vfs={0: Iface(10, learn=True), 1: Iface(11)}),
    "wire down": replace(WIRED, wire_up=False),
    "no wire": replace(WIRED, wire=None),
    "shaped": replace(WIRED, shaper=7, limiter=8, shaped=frozenset({0})),
}


def _two(
    first: Mapping[str, Any], second: Mapping[str, Any], wiring: Wiring = WIRED
) -> tuple[NicPolicy, dict[int, Grants], Wiring]:
    """VFs 0 and 1 as stated, beside that a tenant of VLAN 1 each, with MACs of their own."""
    stated = (dict(first), dict(second))
    own = {vfid: one.pop("own", OWN[vfid]) for vfid, one in enumerate(stated)}
    grants = {vfid: one.pop("grants", Grants()) for vfid, one in enumerate(stated)}
    vfs = tuple(
        VfPolicy.model_validate(
            {"name": f"vf{vfid}", "pciid": "soft0", "vfid": vfid, "vlans": [1], **one}
        )
        for vfid, one in enumerate(stated)
        if "closed" not in one
    )
    return NicPolicy(pf=PfPolicy(id="soft0"), vfs=vfs), grants, replace(wiring, own_macs=own)


def test_a_mac_goes_from_whoever_had_it_to_whoever_is_first_to_claim_it() -> None:
    states = {pair: _two(CLAIMS[pair[0]], CLAIMS[pair[1]]) for pair in product(CLAIMS, repeat=2)}
    compiled = {pair: Compiled().then(*state) for pair, state in states.items()}
    for before, after in product(states, repeat=2):
        nic, grants, wiring = states[after]
        tables = compiled[before].then(nic, grants, wiring).tables
        wanted = owners(nic, grants, wiring.own_macs)
        what = f"{before}, then {after}"
        assert _owned(tables) == {mac_bytes(mac): vfid for mac, vfid in wanted.items()}, what
        assert tables == compiled[after].tables, what


def test_tables_that_follow_one_change_equal_tables_made_anew() -> None:
    states = {pair: _two(RULES[pair[0]], RULES[pair[1]]) for pair in product(RULES, repeat=2)}
    states |= {(name, ""): _two({"rate": "1Gbps"}, {}, wiring) for name, wiring in WIRINGS.items()}
    compiled = {pair: Compiled().then(*state) for pair, state in states.items()}
    for before, after in product(states, repeat=2):
        tables = compiled[before].then(*states[after]).tables
        assert tables == compiled[after].tables, f"{before}, then {after}"


def test_tables_that_follow_changes_equal_tables_made_anew(seeds: range) -> None:
    for seed in seeds[:WALKS]:
        rng = Random(seed)
        world = random_world(rng, VFS)
        compiled = Compiled()
        for step in range(STEPS):
            ports = _ports(rng)
            wiring = world.wiring({-1: 99, **ports}, shaper=7, shaped=frozenset(ports) & {0, 2})
            compiled = compiled.then(world.nic, world.grants, wiring)
            assert compiled.tables == compile_policy(world.nic, world.grants, wiring), (
                f"seed {seed}, step {step}"
            )
            world = _next(rng, world)


def test_every_mac_is_its_owners_and_nobody_elses(seeds: range) -> None:
    for seed in seeds[:WALKS]:
        rng = Random(seed)
        world = random_world(rng, VFS)
        compiled = Compiled()
        for step in range(STEPS):
            world = _contended(rng, world)
            wiring = world.wiring({-1: 99, **{vfid: 10 + vfid for vfid in range(VFS)}})
            compiled = compiled.then(world.nic, world.grants, wiring)
            wanted = owners(world.nic, world.grants, world.own_macs)
            assert _owned(compiled.tables) == {mac_bytes(mac): v for mac, v in wanted.items()}, (
                f"seed {seed}, step {step}"
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
