"""Random policies × random frames: the shipped program does what the reference model says.

Equal verdicts (which ports), equal bytes, equal counters; how frames get through the program is in
rig.py. hypothesis draws a NIC of 6 VFs and ``FRAMES`` frames for it, shrinks what fails to the
least that still does, and tells how to replay it; ``--long`` goes on without end.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.amount import FEW, drawn
from tests.bpf.randoms import (
    World,
    chance,
    plain_frame,
    plain_world,
    random_frame,
    random_world,
)
from tests.bpf.rig import LONGEST, Rig

from vfd.nic.soft import layout
from vfd.nic.soft.compiler import compile_policy
from vfd.policy.frames import MAC_CONTROL, TruncatedError, parse
from vfd.policy.model import Model

VFS = 6
FRAMES = 100
CASES = drawn(220)
"""× FRAMES: more than 20 000 pairs, or the first of them."""
UNSPEC = 0xFFFFFFFF
"""TC_ACT_UNSPEC: the short way leaves the frame to the long one."""
HEAD = 64
"""Bytes of a frame that a failure shows."""

DRAWN = settings(
    max_examples=CASES,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RANDOMS = st.randoms(use_true_random=False)

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
        f"frame from {port}: {_frame(frame)}\n"
        f"model:   {_text(list(want.out))} {dict(want.counters)}\n"
        f"program: {_text(got)} {dict(+moved)}"
    )


def _text(out: list[tuple[int, bytes]]) -> str:
    return ", ".join(f"{port}: {_frame(frame)}" for port, frame in out) or "nothing"


def _frame(frame: bytes) -> str:
    rest = "" if len(frame) <= HEAD else f"… ({len(frame)} B)"
    return frame[:HEAD].hex() + rest


def policies_of(world: World) -> str:
    lines = [
        f"{vf.model_dump_json(exclude_defaults=True)} {world.grants.get(vf.vfid, '')}"
        for vf in world.nic.vfs
    ]
    pf = world.nic.pf.model_dump_json(exclude_defaults=True)
    return "\n".join(
        [f"{pf} wire {world.has_wire} up {world.wire_up} own {world.own_macs}", *lines]
    )


def run_case(rig: Rig, rng: Random) -> Counter[str]:
    """One case; returns the counters that moved. Frames are drawn as they are sent: the one that
    fails is the last.
    """
    world = random_world(rng, VFS)
    enforce(rig, world)
    model = model_of(world)
    before = Counter(rig.counters())
    expected: Counter[tuple[int, str]] = Counter()
    sent: list[tuple[int, bytes, bool]] = []
    shown: Counter[str] = Counter()
    for _ in range(FRAMES):
        port, frame = random_frame(rng, world, LONGEST)
        shaped = port >= 0 and chance(rng, 10)
        sent.append((port, frame, shaped))
        shown.update(shapes(frame))
        want = model.process(port, frame)
        expected.update(want.counters)
        if list(want.out) != rig.through(port, frame, shaped=shaped):
            raise AssertionError(
                f"{disagreement(rig, world, port, frame, shaped)}\n{policies_of(world)}"
            )
    moved = Counter(rig.counters())
    moved.subtract(before)
    if +moved != +expected:
        differing = filter(None, (disagreement(rig, world, *one) for one in sent))
        found = next(differing, f"counters {moved} are not {expected}")
        raise AssertionError(f"{found}\n{policies_of(world)}")
    return shown + Counter({name: by for (_, name), by in expected.items() if by})


def shapes(raw: bytes) -> Iterator[str]:
    """What rules of their own are about."""
    with contextlib.suppress(TruncatedError):
        frame = parse(raw)
        if frame.is_veiled:
            yield "veiled " + " ".join(f"{tag.tpid:x}" for tag in frame.tags[:2])
        if frame.type == MAC_CONTROL:
            yield f"MAC control under {min(len(frame.tags), 3)} tags"


@pytest.mark.timeout(400)  # what fails is shrunk, which takes minutes
def test_the_program_decides_as_the_model(rig: Rig) -> None:
    moved: Counter[str] = Counter()
    pairs = 0

    @DRAWN
    @given(RANDOMS)
    def cases(rng: Random) -> None:
        nonlocal pairs
        moved.update(run_case(rig, rng))
        pairs += FRAMES

    cases()
    assert pairs >= CASES * FRAMES
    missing = {
        "rx_packets", "rx_bytes", "rx_errors", "rx_dropped", "tx_packets", "tx_bytes",
        "tx_errors", "tx_dropped", "spoofed", "dropped_vlan", "dropped_untagged", "oversize",
        "mirrored",
        *(f"veiled {outer} {inner}" for outer in ("8100", "88a8") for inner in ("8100", "88a8")),
        *(f"MAC control under {tags} tags" for tags in range(4)),
    } - set(moved)  # fmt: skip
    assert FEW or not missing, f"no frame of {pairs} moved {missing}: the draw has gone stale"


@pytest.mark.timeout(400)
def test_plain_unicast_is_decided_alike_by_the_short_way_and_the_long_one(rig: Rig) -> None:
    """Frames that the short way takes, and frames that differ from such by one thing: each goes
    the long way, the way of the shipped program, and the short one where that takes it."""
    taken: Counter[bool] = Counter()

    @DRAWN
    @given(RANDOMS)
    def cases(rng: Random) -> None:
        world = plain_world(rng, VFS)
        enforce(rig, world)
        frames = [plain_frame(rng, world, LONGEST) for _ in range(FRAMES)]
        for path in (layout.PATH_GENERAL, layout.PATH_ALL):
            assert all(go(rig, world, frames, path)), "only the short way leaves frames"
        taken.update(go(rig, world, frames, layout.PATH_PLAIN))

    cases()
    assert taken.total() >= CASES * FRAMES
    assert min(taken.values()) > taken.total() / 5, f"the draw has gone stale: taken {taken}"


def go(rig: Rig, world: World, frames: list[tuple[int, bytes]], path: int) -> list[bool]:
    """Sends the frames one way, and holds what comes of them to the model: which it took."""
    model, taken = model_of(world), []
    before = Counter(rig.counters())
    expected: Counter[tuple[int, str]] = Counter()
    for port, frame in frames:
        verdict, _ = rig.send(port, frame, path=path)
        taken.append(verdict != UNSPEC)
        want = model.process(port, frame)
        expected.update(want.counters if taken[-1] else {})
        out = rig.drain()
        assert out == (list(want.out) if taken[-1] else []), (
            f"way {path}, frame from {port}: {_frame(frame)}\n"
            f"model:   {_text(list(want.out))}\n"
            f"program: {_text(out)}\n{policies_of(world)}"
        )
    moved = Counter(rig.counters())
    moved.subtract(before)
    assert +moved == +expected, f"way {path}: {policies_of(world)}"
    return taken


@pytest.mark.long
@pytest.mark.timeout(0)
def test_the_program_decides_as_the_model_without_end(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    @settings(DRAWN, derandomize=False, phases=(Phase.generate, Phase.shrink))
    @given(RANDOMS)
    def cases(rng: Random) -> None:
        run_case(rig, rng)

    for done in itertools.count(1):
        cases()
        with capsys.disabled():
            print(f"{done * CASES * FRAMES} frames agree")
