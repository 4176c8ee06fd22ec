"""Policies into tables and back."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from tests.bpf.randoms import World, random_world
from tests.bpf.rig import Rig

from vfd.nic.protocol import NicError, UnsupportedError
from vfd.nic.soft import layout
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
from vfd.policy.model import Model
from vfd.policy.rate import Rate
from vfd.policy.requests import Grants
from vfd.policy.values import Mirror, NicPolicy, PfPolicy, TrafficClass, VfPolicy

VFS = 5
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


@pytest.mark.root
def test_maps_hold_what_was_written_for_vfs_in_every_word_of_a_set_of_ports() -> None:
    """Port n + 1 is VF n's: 63 is the last of the first word, and a word has 64."""
    vfids = (0, 1, 61, 62, 63, 64, 126, 127, 128, 190, 191, 192, 254, 255)
    vfs = tuple(
        VfPolicy(name=f"vf{vfid}", pciid="soft0", vfid=vfid, vlans=(1, 4094), allow_mcast=True)
        for vfid in vfids
    )
    pf = PfPolicy(id="soft0", vfs=256)
    own_macs = {vfid: f"02:00:00:00:00:{vfid:02x}" for vfid in vfids}
    wiring = Wiring(vfs={v: Iface(300 + v) for v in vfids}, wire=9, own_macs=own_macs)
    grants = {vfid: Grants(groups=frozenset({"01:00:5e:00:00:01"})) for vfid in vfids}
    every = sum(1 << vfid + 1 for vfid in vfids)
    with Rig(vfs=2) as rig:
        for some in (vfs, vfs[:-1], vfs[::2], ()):
            wanted = compile_policy(NicPolicy(pf=pf, vfs=some), grants, wiring)
            rig.enforce(wanted)
            found = rig.veb.read()
            assert replace(found, slots={}) == wanted
            ports = every if some == vfs else sum(1 << vf.vfid + 1 for vf in some)
            assert found.members == ({1: ports, 4094: ports} if some else {})
            assert found.sets.get(layout.SET_MCAST, 0) == ports


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
