"""Flower rules against the reference model: random policies, random frames, one fate.

The laboratory's netdevsim acknowledges rules and runs none, so this is where it is proven that
they mean what docs/semantics.md says; tests/lab_netdevsim proves that the kernel takes them.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from tests.bpf.randoms import World, random_frame, random_world
from tests.kernel.flower_machine import HOST, WIRE, Machine, to_others

from vfd.nic.kernel.flower import Rules
from vfd.nic.kernel.switchdev_compile import Eswitch, compile_rules
from vfd.nic.kernel.switchdev_record import record, recorded
from vfd.nic.kernel.switchdev_steps import Put, Remove, Step, software_ports, steps, to_software
from vfd.policy.frames import MAC_CONTROL, TruncatedError, parse
from vfd.policy.model import Model
from vfd.policy.requests import owners
from vfd.policy.values import LinkStatus, NicPolicy, VfRules

VFS = 6


def drawn_world(rng: Random, vfs: int = VFS) -> World:
    """Without what flower can't say: MTUs, guests' grants, a wire that is down or not there."""
    world = random_world(rng, vfs)
    pf = world.nic.pf.model_copy(update={"mtu": 9710, "default_mtu": 9710})
    storm = {vf.vfid: rng.choice((0, 0, 1000)) for vf in world.nic.vfs}
    policies = tuple(
        vf.model_copy(update={"mtu": None, "storm_limit": storm[vf.vfid]}) for vf in world.nic.vfs
    )
    nic = NicPolicy.model_construct(pf=pf, vfs=policies)
    return World(nic, {}, world.own_macs, has_wire=True, wire_up=True)


def _eswitch(world: World) -> Eswitch:
    vfs = {vf.vfid: vf.rules for vf in world.nic.vfs}
    return Eswitch(
        loopback=world.nic.pf.enable_loopback,
        tpid=world.nic.pf.tpid,
        vfs=vfs,
        closed=frozenset(world.own_macs) - vfs.keys(),
        owners=owners(world.nic, {}, world.own_macs),
    )


def drawn_frames(rng: Random, world: World, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        port, raw = random_frame(rng, world, 400)
        try:
            frame = parse(raw)
        except TruncatedError:
            continue  # flower has no word for it: the NIC's parser decides
        if frame.type == MAC_CONTROL and len(frame.tags) > 2:
            continue  # nor for what is behind a third tag
        found.append((port, raw))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_rules_do_with_every_frame_what_the_model_does(seed: int) -> None:
    rng = Random(seed)
    for _ in range(4):
        world = drawn_world(rng, rng.choice((2, 4, VFS)))
        model = Model(world.nic, {}, world.own_macs, wire_up=True)
        machine = Machine(compile_rules(_eswitch(world)))
        for port, raw in drawn_frames(rng, world, 50):
            assert to_others(machine.process(port, raw)) == model.process(port, raw).out, (
                f"{world.nic!r}\nport {port}: {parse(raw)}"
            )


@pytest.mark.parametrize("seed", range(20))
def test_a_storm_limit_stops_what_counts_as_a_storm_and_nothing_else(seed: int) -> None:
    rng = Random(1000 + seed)
    for _ in range(4):
        world = drawn_world(rng)
        model = Model(world.nic, {}, world.own_macs, wire_up=True)
        machine = Machine(compile_rules(_eswitch(world)))
        for port, raw in drawn_frames(rng, world, 50):
            vf = world.nic.by_vfid().get(port)
            limited = None
            if (
                vf is not None
                and vf.storm_limit
                and model.process(port, raw).counters.get((port, "tx_packets"))
            ):
                limited = "storm_dropped" if model.counts_as_storm(port, raw) else None
            assert (
                to_others(machine.process(port, raw, exhausted=True))
                == model.process(port, raw, limited=limited).out  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("seed", range(20))
def test_a_limit_of_what_a_vf_is_sent_stops_frames_to_its_macs_and_nothing_else(seed: int) -> None:
    rng = Random(5000 + seed)
    for _ in range(4):
        world = drawn_world(rng)
        limited = {vf.vfid for vf in world.nic.vfs if vf.max_rx_rate.bps}
        owner = owners(world.nic, {}, world.own_macs)
        machine = Machine(compile_rules(_eswitch(world)))
        for port, raw in drawn_frames(rng, world, 50):
            free = to_others(machine.process(port, raw))
            held = to_others(machine.process(port, raw, throttled=True))
            gone = [to for to, _ in (Counter(free) - Counter(held)).elements()]
            to = owner.get(parse(raw).dst)
            assert gone in ([], [to])
            assert to in limited or not gone
            assert not Counter(held) - Counter(free)


@pytest.mark.parametrize("seed", range(6))
def test_floods_to_more_vfs_than_a_rule_has_actions_reach_them_all(seed: int) -> None:
    rng = Random(2000 + seed)
    pool = [f"02:00:00:00:01:{n:02x}" for n in range(90)]
    world = drawn_world(rng, 6)
    model_vf = next(vf for vf in world.nic.vfs)
    policies = tuple(
        model_vf.model_copy(
            update={
                "name": f"vf{vfid}",
                "vfid": vfid,
                "vm_mac": pool[vfid],
                "macs": (),
                "vlans": (7,),
                "strip_ctag": vfid % 3 == 0,
                "strip_stag": False,
                "allow_un_ucast": True,
                "allow_bcast": True,
                "link_status": LinkStatus.AUTO,
                "mirror": (),
            }
        )
        for vfid in range(90)
    )
    pf = world.nic.pf.model_copy(update={"enable_loopback": True})
    big = World(
        NicPolicy.model_construct(pf=pf, vfs=policies), {}, dict(enumerate(pool)), True, True
    )
    model = Model(big.nic, {}, big.own_macs, wire_up=True)
    machine = Machine(compile_rules(_eswitch(big)))
    for port, raw in drawn_frames(rng, big, 30):
        assert to_others(machine.process(port, raw)) == model.process(port, raw).out
    broadcast = bytes.fromhex("ff" * 6 + "02ffffff0001" + "81000007" + "0800") + bytes(46)
    assert len(to_others(machine.process(WIRE, broadcast))) == 90


def test_what_no_vf_takes_from_the_wire_goes_on_to_the_host_as_it_came() -> None:
    rng = Random(5)
    seen = 0
    for _ in range(20):
        world = drawn_world(rng)
        machine = Machine(compile_rules(_eswitch(world)))
        for port, raw in drawn_frames(rng, world, 40):
            out = machine.process(port, raw)
            if port == WIRE and not to_others(out):
                seen += (HOST, raw) in out
            elif port != WIRE:
                assert not any(to == HOST for to, _ in out)
    assert seen > 50


def _after(rules: Rules, step: Step) -> Rules:
    match step:
        case Put(rule):
            return rules | {rule.place: rule.actions}
        case Remove(place):
            return {there: actions for there, actions in rules.items() if there != place}


@pytest.mark.parametrize("seed", range(40))
def test_no_step_between_two_policies_lets_pass_what_neither_does(seed: int) -> None:
    rng = Random(3000 + seed)
    before, after = drawn_world(rng, 4), drawn_world(rng, 4)
    after = World(after.nic, {}, before.own_macs, True, True)
    if rng.random() < 0.5:  # one VF changes, the others stay
        one = rng.choice(after.nic.vfs)
        kept = [vf for vf in before.nic.vfs if vf.vfid != one.vfid]
        nic = before.nic.model_copy(
            update={"vfs": tuple(sorted([*kept, one], key=lambda v: v.vfid))}
        )
        after = World(nic, {}, before.own_macs, True, True)
    old, new = compile_rules(_eswitch(before)), compile_rules(_eswitch(after))
    frames = drawn_frames(rng, before, 25) + drawn_frames(rng, after, 25)
    was, will = Machine(old), Machine(new)
    allowed = [{was.process(*frame), will.process(*frame)} for frame in frames]
    now = old
    for step in steps(old, new):
        now = _after(now, step)
        machine = Machine(now)
        for frame, fates in zip(frames, allowed, strict=True):
            assert (fate := machine.process(*frame)) in fates or not fate, (step, frame)
    assert now == new


def test_a_change_of_one_vf_shuts_no_other() -> None:
    rng = Random(77)
    for _ in range(30):
        world = drawn_world(rng, 4)
        one = rng.choice(world.nic.vfs)
        others = tuple(vf for vf in world.nic.vfs if vf is not one)
        without = World(
            world.nic.model_copy(update={"vfs": others}), {}, world.own_macs, True, True
        )
        way = steps(compile_rules(_eswitch(world)), compile_rules(_eswitch(without)))
        shut = {step.rule.place.port for step in way if isinstance(step, Put) and
                step.rule.place.pref == 1 and step.rule.place.chain == 0}  # fmt: skip
        assert shut <= {one.vfid}


@pytest.mark.parametrize("seed", range(10))
def test_while_rules_go_from_the_nic_to_the_cpu_every_frame_fares_as_before(seed: int) -> None:
    rng = Random(4000 + seed)
    world = drawn_world(rng, 4)
    rules = compile_rules(_eswitch(world))
    frames = drawn_frames(rng, world, 30)
    fates = [Machine(rules).process(*frame) for frame in frames]
    ports = frozenset(rng.sample(range(WIRE, 4), 3))
    in_nic, in_cpu = dict(rules), Rules()
    for rule in to_software(rules, rules.keys(), ports):
        in_cpu[rule.place] = in_nic.pop(rule.place)
        machine = Machine(in_nic, in_cpu)
        assert [machine.process(*frame) for frame in frames] == fates, rule
    assert software_ports(rules, in_nic) == ports & {place.port for place in rules}


def test_between_equal_policies_there_is_nothing_to_do() -> None:
    world = drawn_world(Random(9))
    assert steps(compile_rules(_eswitch(world)), compile_rules(_eswitch(world))) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_policy_noted_in_rules_is_read_from_them(seed: int) -> None:
    rng = Random(seed)
    for vf in drawn_world(rng).nic.vfs:
        content = vf.rules.model_dump(mode="json", exclude_defaults=True)
        rules = record(vf.vfid, content)
        found = recorded(vf.vfid, rules)
        assert found is not None
        assert VfRules.model_validate(found) == VfRules.model_validate(content)


def test_a_note_that_was_damaged_is_not_read() -> None:
    rules = record(3, {"vlans": [1, 2, 3]})
    (place,) = rules
    rules[place] = rules[place][1:]
    assert recorded(3, rules) is None
    assert recorded(3, {}) is None
