"""Random policies × random frames: the shipped program does what the reference model says.

Equal verdicts (which ports), equal bytes, equal counters; how frames get through the program is in
rig.py. A case is a seed: a NIC of 6 VFs and ``FRAMES`` frames. What fails is said with its seed,
shrunk to the frame and the VFs that it takes; ``VFD_SEED=n pytest tests/bpf -k differential``
replays that case alone, ``--long`` goes on without end.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from tests.bpf.randoms import World, random_frame, random_world
from tests.bpf.rig import LONGEST, Rig

from vfd.nic.soft.compiler import compile_policy
from vfd.policy.model import Model
from vfd.policy.values import NicPolicy

VFS = 6
FRAMES = 100
CASES = 220
"""× FRAMES: at least 20 000 pairs."""

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(VFS) as rig:
        yield rig


def model_of(world: World) -> Model:
    return Model(world.nic, world.grants, world.own_macs, world.wire_up, has_wire=world.has_wire)


def enforce(rig: Rig, world: World) -> None:
    rig.enforce(compile_policy(world.nic, world.grants, world.wiring(rig.ifindex)))


def disagreement(rig: Rig, world: World, port: int, frame: bytes, shaped: bool) -> str:
    """What differs for one frame, counters included; empty: nothing."""
    want = model_of(world).process(port, frame)
    before = Counter(rig.counters())
    got = rig.through(port, frame, shaped=shaped)
    moved = Counter(rig.counters())
    moved.subtract(before)
    if list(want.out) == got and +moved == +Counter(want.counters):
        return ""
    return (
        f"frame from {port}: {frame.hex()}\n"
        f"model:   {_text(list(want.out))} {dict(want.counters)}\n"
        f"program: {_text(got)} {dict(+moved)}"
    )


def _text(out: list[tuple[int, bytes]]) -> str:
    return ", ".join(f"{port}: {frame.hex()}" for port, frame in out) or "nothing"


def shrink(rig: Rig, world: World, port: int, frame: bytes, shaped: bool) -> str:
    """The disagreement with as few VFs and bytes as still show it."""

    def fails(vfs: tuple[object, ...], cut: bytes) -> str:
        smaller = World(
            NicPolicy(pf=world.nic.pf, vfs=vfs),  # type: ignore[arg-type]
            world.grants,
            world.own_macs,
            world.has_wire,
            world.wire_up,
        )
        enforce(rig, smaller)
        return disagreement(rig, smaller, port, cut, shaped)

    vfs = world.nic.vfs
    for vf in world.nic.vfs:
        without = tuple(other for other in vfs if other is not vf)
        if fails(without, frame):
            vfs = without
    while len(frame) > 60 and fails(vfs, frame[: len(frame) // 2]):
        frame = frame[: len(frame) // 2]
    policies = "\n".join(
        f"{vf.model_dump_json(exclude_defaults=True)} {world.grants.get(vf.vfid, '')}" for vf in vfs
    )
    return (
        f"{fails(vfs, frame)}\n{world.nic.pf.model_dump_json(exclude_defaults=True)}"
        f" wire {world.has_wire} up {world.wire_up} own {world.own_macs}\n{policies}"
    )


def run_case(rig: Rig, seed: int) -> set[str]:
    """One case; returns the counters that moved. Raises AssertionError with all to replay it."""
    rng = Random(seed)
    world = random_world(rng, VFS)
    enforce(rig, world)
    model = model_of(world)
    before = Counter(rig.counters())
    expected: Counter[tuple[int, str]] = Counter()
    sent: list[tuple[int, bytes, bool]] = []
    for _ in range(FRAMES):
        port, frame = random_frame(rng, world, LONGEST)
        shaped = port >= 0 and rng.random() < 0.1
        sent.append((port, frame, shaped))
        want = model.process(port, frame)
        expected.update(want.counters)
        if list(want.out) != rig.through(port, frame, shaped=shaped):
            pytest.fail(f"seed {seed}\n{shrink(rig, world, port, frame, shaped)}", pytrace=False)
    moved = Counter(rig.counters())
    moved.subtract(before)
    if +moved != +expected:
        for port, frame, shaped in sent:
            if disagreement(rig, world, port, frame, shaped):
                found = shrink(rig, world, port, frame, shaped)
                pytest.fail(f"seed {seed}: counters\n{found}", pytrace=False)
        pytest.fail(f"seed {seed}: counters {moved} are not {expected}", pytrace=False)
    return {name for (_, name), by in expected.items() if by}


def test_the_program_decides_as_the_model(rig: Rig) -> None:
    replay = os.environ.get("VFD_SEED")
    if replay is not None:
        run_case(rig, int(replay))
        return
    start = time.time_ns() // 1000
    moved: set[str] = set()
    for seed in range(start, start + CASES):
        moved |= run_case(rig, seed)
    missing = {
        "rx_packets", "rx_bytes", "rx_errors", "rx_dropped", "tx_packets", "tx_bytes",
        "tx_errors", "tx_dropped", "spoofed", "dropped_vlan", "dropped_untagged", "oversize",
        "mirrored",
    } - moved  # fmt: skip
    assert not missing, f"no frame of {CASES * FRAMES} moved {missing}: the draw has gone stale"


@pytest.mark.long
@pytest.mark.timeout(0)
def test_the_program_decides_as_the_model_without_end(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.time_ns() // 1000
    for done in itertools.count(1):
        run_case(rig, start + done)
        if done % 100 == 0:
            with capsys.disabled():
                print(f"seeds {start + 1} … {start + done}: {done * FRAMES} frames agree")
