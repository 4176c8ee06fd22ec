"""The way between two policies, write by write, through the real program.

No step passes what neither policy passes; and what both switch from and to ports whose tables don't
change passes at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations, permutations
from random import Random
from typing import Any

import pytest
from tests.amount import drawn
from tests.bpf.randoms import World, changed, random_frame, random_world
from tests.bpf.rig import Rig

from vfd.nic.soft.compiler import compile_policy
from vfd.nic.soft.tables import Tables
from vfd.nic.soft.writes import diff
from vfd.policy.addresses import mac_bytes
from vfd.policy.model import Model, Verdict
from vfd.policy.requests import Grants
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

VFS = 5
CHANGES = drawn(120)
FRAMES = 12
OWN = {vfid: f"02:00:00:00:00:{vfid:02x}" for vfid in range(VFS)}
MINE, GROUP = "02:00:00:00:01:01", "01:00:5e:00:00:01"
STRANGER, BROADCAST = "02:ff:00:00:00:01", "ff:ff:ff:ff:ff:ff"

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(VFS) as rig:
        yield rig


PLACES: Mapping[str, Mapping[str, Any]] = {
    "VLAN 1": {},
    "VLAN 2": {"vlans": [2]},
    "VLANs 1 and 2": {"vlans": [1, 2]},
    "service tags": {"vlans": [1], "strip_stag": True},
    "access": {"strip_ctag": True},
    "access to 2": {"vlans": [2], "strip_ctag": True},
    "untagged too": {"allow_untagged": True},
    "untagged": {"vlans": [], "allow_untagged": True},
    "no broadcast": {"allow_bcast": False},
    "multicast": {"allow_mcast": True},
    "a group": {"groups": frozenset({GROUP})},
    "unknown unicast": {"allow_un_ucast": True},
    "any MAC": {"mac_anti_spoof": False},
    "any VLAN": {"vlan_anti_spoof": False},
    "link down": {"link_status": "off"},
    "mirrored": {"mirror": [{"target": 4, "direction": "out"}]},
    "short frames": {"mtu": 100},
    "a MAC": {"vm_mac": MINE},
    "no policy": {"closed": True},
}
"""What a VF may be, beside a tenant of VLAN 1."""


PFS: Mapping[str, Mapping[str, Any]] = {
    "switching": {},
    "no switching": {"enable_loopback": False},
    "service tags": {"tpid": 0x88A8},
    "shorter frames": {"default_mtu": 100},
}


@pytest.mark.parametrize(("one", "other"), [*combinations(PLACES, 2)], ids=str)
def test_no_step_passes_what_neither_passes_while_two_vfs_change_places(
    rig: Rig, one: str, other: str
) -> None:
    before, after = _placed(one, other), _placed(other, one)
    step_by_step(rig, before, after, _exchanged(), f"{one} for {other}")


@pytest.mark.parametrize(("one", "other"), [*permutations(PFS, 2)], ids=str)
def test_no_step_passes_what_neither_passes_while_the_pf_changes(
    rig: Rig, one: str, other: str
) -> None:
    before, after = (_placed("VLAN 1", "untagged too", pf) for pf in (one, other))
    step_by_step(rig, before, after, _exchanged(), f"{one}, then {other}")


def _placed(first: str, second: str, pf: str = "switching") -> World:
    """VFs 0 and 1 in these places; beside them VF 2 hears all of VLANs 1 and 2."""
    hears_all = {"vlans": [1, 2], "allow_mcast": True, "allow_un_ucast": True}
    places = [dict(PLACES[first]), dict(PLACES[second]), hears_all, {"vlans": [3]}, {"vlans": [3]}]
    groups = {vfid: place.pop("groups", frozenset()) for vfid, place in enumerate(places)}
    vfs = tuple(
        VfPolicy.model_validate(
            {"name": f"vf{vfid}", "pciid": "soft0", "vfid": vfid, "vlans": [1], **place}
        )
        for vfid, place in enumerate(places)
        if "closed" not in place
    )
    grants = {vf.vfid: Grants(groups=groups[vf.vfid]) for vf in vfs}
    policy = PfPolicy.model_validate(
        {"id": "soft0", "vfs": VFS, "enable_loopback": True, **PFS[pf]}
    )
    return World(NicPolicy(pf=policy, vfs=vfs), grants, OWN, True, True)


def _exchanged() -> list[tuple[int, bytes]]:
    """From each port to each MAC, in each VLAN; and what only one place may send."""
    tags = {"none": "", "1": "81000001", "2": "81000002", "S": "88a80001"}
    sources = {-1: STRANGER, 0: OWN[0], 1: OWN[1], 2: OWN[2]}
    sent = [
        (port, to, source, tag, 50)
        for port, source in sources.items()
        for to in (OWN[0], OWN[1], MINE, BROADCAST, GROUP, STRANGER)
        for tag in tags
        if to != source
    ]
    for port in (0, 1):
        sent += [(port, OWN[1 - port], source, "1", 50) for source in (MINE, STRANGER)]
        sent += [(port, OWN[1 - port], OWN[port], "1", 150)]
    return [
        (
            port,
            bytes.fromhex(f"{to}{source}".replace(":", "") + tags[tag]) + b"\x88\xb5" + size * b"x",
        )
        for port, to, source, tag, size in sent
    ]


@pytest.mark.timeout(300)
def test_no_step_between_two_random_policies_passes_what_neither_passes(
    rig: Rig, seeds: range
) -> None:
    kept = sum(_walk(rig, seed) for seed in seeds[:CHANGES])
    assert kept > CHANGES // 4, "the draw has gone stale: hardly a frame passes at every step"


@pytest.mark.parametrize(
    ("before", "after"), [((1,), (2,)), ((2,), (1,)), ((1,), (1, 2)), ((1, 2), (1,))], ids=str
)
def test_vfs_that_change_vlans_together_tell_the_wire_nothing_meanwhile(
    rig: Rig, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    """Whoever changes first would find the others' MACs in no VLAN of theirs, and flood."""
    own_macs = {vfid: f"02:00:00:00:00:{vfid:02x}" for vfid in range(VFS)}
    pf = PfPolicy(id="soft0", vfs=VFS, enable_loopback=True)

    def world(vlans: tuple[int, ...]) -> World:
        """The first three in ``vlans``, the last in all and taking what nobody owns."""
        vfs = [
            VfPolicy(name=f"vf{vfid}", pciid="soft0", vfid=vfid, vlans=vlans) for vfid in range(3)
        ]
        rest = VfPolicy(name="rest", pciid="soft0", vfid=4, vlans=(1, 2), allow_un_ucast=True)
        return World(NicPolicy(pf=pf, vfs=(*vfs, rest)), {}, own_macs, True, True)

    macs = [mac_bytes(mac) for mac in own_macs.values()]
    frames = [
        (port, macs[to] + macs[port] + bytes((0x81, 0, 0, vid)) + 50 * b"x")
        for port in (0, 1, 2, 4)
        for to in range(4)
        for vid in (1, 2)
        if to != port
    ]
    step_by_step(rig, world(before), world(after), frames, f"{before} to {after}")


def _walk(rig: Rig, seed: int) -> int:
    rng = Random(seed)
    old = random_world(rng, VFS)
    new = changed(rng, old)
    frames = [random_frame(rng, (old, new)[at % 2], 200) for at in range(FRAMES)]
    return step_by_step(rig, old, new, frames, f"seed {seed}")


def step_by_step(
    rig: Rig, old_world: World, new_world: World, sent: list[tuple[int, bytes]], what: str
) -> int:
    """How many copies had to pass at every step, and did."""
    old, new = (
        compile_policy(world.nic, world.grants, world.wiring(rig.ifindex))
        for world in (old_world, new_world)
    )
    rig.enforce(old)
    frames = []
    for port, frame in sent:
        verdicts = [_model(world).process(port, frame) for world in (old_world, new_world)]
        frames.append((port, frame, _allowed(verdicts), _kept(old, new, port, frame, verdicts)))
    writes = diff(rig.veb.read(), new)
    for done, write in enumerate(writes, 1):
        rig.veb.apply([write])
        for port, frame, allowed, kept in frames:
            out = set(rig.through(port, frame))
            where = f"{what}, write {done} of {len(writes)}, {write.map}, from {port}"
            assert out <= allowed, f"{where}: {frame.hex()} passed as neither policy lets it"
            assert kept <= out, f"{where}: {frame.hex()} was lost"
    assert replace(rig.veb.read(), slots={}) == new, what
    return sum(len(kept) for *_, kept in frames)


def _model(world: World) -> Model:
    return Model(world.nic, world.grants, world.own_macs, world.wire_up, has_wire=world.has_wire)


def _allowed(verdicts: list[Verdict]) -> set[tuple[int, bytes]]:
    return {out for verdict in verdicts for out in verdict.out}


def _kept(
    old: Tables, new: Tables, port: int, frame: bytes, verdicts: list[Verdict]
) -> set[tuple[int, bytes]]:
    """What both policies switch between ports, and for a MAC, that don't change."""
    key = frame[:6] + bytes(2)
    if old.macs.get(key) != new.macs.get(key) or old.ports[port + 1] != new.ports[port + 1]:
        return set()
    source = frame[6:12] + bytes(2)
    if old.macs.get(source) != new.macs.get(source):
        return set()
    owner = int.from_bytes(old.macs.get(key, bytes(8))[6:], "little") & 0xFFF
    if old.ports[owner] != new.ports[owner]:
        return set()
    both = set(verdicts[0].switched) & set(verdicts[1].switched)
    return {(to, out) for to, out in both if old.ports[to + 1] == new.ports[to + 1]}
