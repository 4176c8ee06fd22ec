"""Which frames a storm limit counts, and that what it drops goes nowhere: program beside model."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from tests.amount import drawn
from tests.bpf.randoms import World, random_frame, random_world
from tests.bpf.rig import Rig, port_number

from vfd.nic.soft.compiler import compile_policy
from vfd.policy.model import Model
from vfd.policy.values import NicPolicy

VFS = 6
CASES, FRAMES = drawn(60), 40

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(VFS) as rig:
        yield rig


def limited_world(rng: Random) -> World:
    world = random_world(rng, VFS)
    vfs = tuple(vf.model_copy(update={"storm_limit": 1}) for vf in world.nic.vfs)
    nic = NicPolicy(pf=world.nic.pf, vfs=vfs)
    return World(nic, world.grants, world.own_macs, world.has_wire, world.wire_up)


def exhaust(rig: Rig) -> None:
    """No port has a frame left under its storm limit."""
    spoken_for = struct.pack("=QQ", 1 << 62, 0)
    for vfid in range(VFS):
        rig.veb.maps["veb_buckets"].put(struct.pack("=I", port_number(vfid)), spoken_for)


def test_an_exhausted_storm_limit_drops_what_counts_against_it_and_nothing_else(
    rig: Rig, seeds: range
) -> None:
    counted = 0
    for seed in seeds[:CASES]:
        rng = Random(seed)
        world = limited_world(rng)
        rig.enforce(compile_policy(world.nic, world.grants, world.wiring(rig.ifindex)))
        exhaust(rig)
        model = Model(
            world.nic, world.grants, world.own_macs, world.wire_up, has_wire=world.has_wire
        )
        for _ in range(FRAMES):
            port, frame = random_frame(rng, world, 200)
            want = model.process(port, frame)
            if want.counters.get((port, "tx_packets")) and model.counts_as_storm(port, frame):
                want = model.process(port, frame, limited="storm_dropped")
                counted += 1
            before = Counter(rig.counters())
            got = rig.through(port, frame)
            moved = Counter(rig.counters())
            moved.subtract(before)
            where = f"seed {seed}, from {port}: {frame.hex()}"
            assert list(want.out) == got, where
            assert +moved == +Counter(want.counters), where
    assert counted > CASES, "the draw has gone stale: hardly a frame counts against the limit"
