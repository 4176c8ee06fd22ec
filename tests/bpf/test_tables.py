"""Policies into tables and back, and the way between two policies."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from tests.bpf.randoms import World, changed, random_frame, random_world
from tests.bpf.rig import Rig

from vfd.nic.protocol import NicError, UnsupportedError
from vfd.nic.soft.compiler import compile_policy
from vfd.nic.soft.layout import VebPort
from vfd.nic.soft.tables import (
    Iface,
    Tables,
    Wiring,
    canonical,
    class_id,
    decode,
    needs_shaper,
    storm_burst,
    traffic_class,
)
from vfd.nic.soft.writes import diff
from vfd.policy.addresses import mac_bytes
from vfd.policy.model import Model, Verdict
from vfd.policy.rate import Rate
from vfd.policy.requests import Grants
from vfd.policy.values import Mirror, NicPolicy, PfPolicy, TrafficClass, VfPolicy

VFS = 5
CHANGES = 120
FRAMES = 12
IFINDEX = {port: 100 + port for port in range(-1, VFS)}


def compiled(world: World) -> Tables:
    return compile_policy(world.nic, world.grants, world.wiring(IFINDEX))


@pytest.mark.parametrize("seed", range(60))
def test_tables_mean_what_they_were_compiled_from(seed: int) -> None:
    world = _resolved(random_world(Random(seed), VFS))
    found = decode(compiled(world))
    assert found.pf == world.nic.pf
    assert found.wire == (IFINDEX[-1] if world.has_wire else None)
    assert found.wire_up == (world.wire_up or not world.has_wire)
    assert sorted(found.vfs) == list(range(VFS))
    model = Model(world.nic, world.grants, world.own_macs, world.wire_up, has_wire=world.has_wire)
    for vfid, vf in found.vfs.items():
        policy = world.nic.by_vfid().get(vfid)
        assert vf.own_mac == world.own_macs[vfid]
        assert vf.ifindex == IFINDEX[vfid]
        if policy is None:
            assert (vf.rules, vf.link_up, vf.grants) == (None, False, Grants())
            continue
        assert vf.rules == canonical(policy.rules)
        assert vf.grants == world.grants.get(vfid, Grants())
        assert vf.link_up == model.link_up(policy)


def test_the_note_of_a_newer_vfd_is_read_as_far_as_it_is_understood() -> None:
    """After a downgrade the daemon adopts the NIC, and makes anew what it doesn't know."""
    tables = compiled(random_world(Random(1), VFS))
    note = json.loads(tables.note)
    note |= {"mtu": 4000, "novelty": {"of": "later"}, "guest": "vhost"}
    note["tclasses"] = [{"pri": 0, "colour": "blue"}]
    found = decode(replace(tables, note=json.dumps(note).encode())).pf
    assert found is not None
    assert (found.id, found.mtu, found.guest, found.tclasses) == (note["id"], 4000, "veth", ())
    with pytest.raises(NicError, match="note"):
        decode(replace(tables, note=b'{"torn'))


@pytest.mark.parametrize("seed", range(30))
def test_the_canonical_form_means_the_same(seed: int) -> None:
    world = _resolved(random_world(Random(seed), VFS))
    again = NicPolicy(
        pf=world.nic.pf,
        vfs=tuple(
            VfPolicy.model_validate({**vf.model_dump(), **canonical(vf.rules).model_dump()})
            for vf in world.nic.vfs
        ),
    )
    assert compiled(World(again, world.grants, world.own_macs, True, True)) == compiled(
        World(world.nic, world.grants, world.own_macs, True, True)
    )
    for vf in world.nic.vfs:
        assert canonical(canonical(vf.rules)) == canonical(vf.rules)


def _resolved(world: World) -> World:
    """With the MACs that are forced stated as such: ``resolve``."""
    vfs = tuple(vf.model_copy(update={"vm_mac": vf.forced_mac}) for vf in world.nic.vfs)
    return replace(world, nic=world.nic.model_copy(update={"vfs": vfs}))


def test_the_way_from_a_policy_to_itself_is_empty() -> None:
    tables = compiled(random_world(Random(1), VFS))
    assert diff(tables, tables) == ()


def test_what_no_frame_is_decided_by_never_closes_a_port() -> None:
    world = random_world(Random(3), VFS)
    vfs = tuple(
        vf.model_copy(update={"rate": Rate(bps=10**6), "trust": True}) for vf in world.nic.vfs
    )
    new = compiled(replace(world, nic=NicPolicy(pf=world.nic.pf, vfs=vfs)))
    old = compiled(world)
    writes = diff(old, new)
    assert {write.map for write in writes} <= {"veb_ports", "veb_active"}
    changed = [port for port in new.ports if old.ports[port] != new.ports[port]]
    assert len(writes) == 2 * len(changed)


def test_more_mirrors_than_there_is_room_for_are_refused_by_name() -> None:
    mirrors = tuple(Mirror(target=n) for n in range(1, 11))
    vf = VfPolicy(name="a", pciid="soft0", vfid=0, allow_untagged=True, mirror=mirrors)
    nic = NicPolicy(pf=PfPolicy(id="soft0", vfs=11), vfs=(vf,))
    with pytest.raises(UnsupportedError, match="VF 0 has 10 mirrors"):
        compile_policy(nic, {}, Wiring(vfs={0: Iface(5)}, wire=None))


def test_a_rate_that_is_still_a_share_is_refused() -> None:
    vf = VfPolicy(name="a", pciid="soft0", vfid=0, allow_untagged=True, rate=Rate(share=0.5))
    nic = NicPolicy(pf=PfPolicy(id="soft0", vfs=1), vfs=(vf,))
    with pytest.raises(ValueError, match="resolve the policy first"):
        compile_policy(nic, {}, Wiring(vfs={0: Iface(5)}, wire=None))


def test_two_pcps_share_a_class_with_four_classes() -> None:
    four = PfPolicy(id="soft0", enable_qos=True)
    eight = four.model_copy(update={"tclasses": tuple(TrafficClass(pri=n) for n in range(8))})
    none = PfPolicy(id="soft0")
    assert [traffic_class(four, pcp) for pcp in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [traffic_class(eight, pcp) for pcp in range(8)] == list(range(8))
    assert {traffic_class(none, pcp) for pcp in range(8)} == {0}
    ids = {class_id(vfid, tclass) for vfid in range(256) for tclass in range(8)}
    assert len(ids) == 2048
    assert all(0x1_0000 < each < 0x1_FFFF for each in ids)


def test_a_guarantee_puts_every_vf_behind_the_shaper_and_a_rate_only_its_own() -> None:
    plain = VfPolicy(name="a", pciid="soft0", vfid=0, allow_untagged=True)
    limited = plain.model_copy(update={"vfid": 1, "rate": Rate(bps=10**6)})
    assured = plain.model_copy(update={"vfid": 2, "min_rate": Rate(bps=10**6)})
    pf = PfPolicy(id="soft0")
    assert needs_shaper(NicPolicy(pf=pf, vfs=(plain, limited))) == {1}
    assert needs_shaper(NicPolicy(pf=pf, vfs=(plain, limited, assured))) == {0, 1, 2}


@pytest.mark.parametrize("classes", [True, False])
def test_only_with_classes_a_vf_with_a_rate_passes_its_own_limit_before(classes: bool) -> None:
    plain = VfPolicy(name="a", pciid="soft0", vfid=0, allow_untagged=True)
    limited = plain.model_copy(update={"name": "b", "vfid": 1, "rate": Rate(bps=10**6)})
    nic = NicPolicy(pf=PfPolicy(id="soft0", enable_qos=classes), vfs=(plain, limited))
    wiring = Wiring(
        vfs={0: Iface(10), 1: Iface(11)},
        wire=None,
        shaper=7,
        limiter=8,
        shaped=needs_shaper(nic),
    )
    ports = compile_policy(nic, {}, wiring).ports
    found = {n: VebPort.from_buffer_copy(ports[n + 1]) for n in (0, 1)}
    assert {n: port.shaper for n, port in found.items()} == {0: 7 if classes else 0, 1: 7}
    assert {n: port.limiter for n, port in found.items()} == {0: 0, 1: 8 if classes else 0}


def test_a_storm_burst_is_a_tenth_of_a_second_but_never_more_than_the_limit() -> None:
    assert [storm_burst(limit) for limit in (1, 5, 10, 50, 100, 1000)] == [1, 5, 10, 10, 10, 100]


# -- The way between two policies -------------------------------------------------------------


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig(VFS) as rig:
        yield rig


@pytest.mark.root
@pytest.mark.timeout(300)
def test_no_step_between_two_policies_passes_what_neither_passes(rig: Rig) -> None:
    """Write by write, through the real program. And what both policies switch from and to ports
    whose tables don't change passes at every step."""
    start = time.time_ns() // 1000
    kept = 0
    for seed in range(start, start + CHANGES):
        kept += _walk(rig, seed)
    assert kept > CHANGES // 4, "the draw has gone stale: hardly a frame passes at every step"


@pytest.mark.root
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
    _step_by_step(rig, world(before), world(after), frames, f"{before} to {after}")


def _walk(rig: Rig, seed: int) -> int:
    rng = Random(seed)
    old = random_world(rng, VFS)
    new = changed(rng, old)
    frames = [random_frame(rng, (old, new)[at % 2], 200) for at in range(FRAMES)]
    return _step_by_step(rig, old, new, frames, f"seed {seed}")


def _step_by_step(
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
