"""Switchdev mode: rules asked for are in the kernel, as tc shows them, and are read back."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.lab_netdevsim.simulated import Simulated, mac, run, until

from vfd.nic.kernel.discovery import find_surfaces
from vfd.nic.kernel.flower import WIRE
from vfd.nic.kernel.netdevsim import NetdevsimPf
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.protocol import Event, EventKind, NicError, Support
from vfd.policy.rate import Rate
from vfd.policy.values import Mirror, VfPolicy


def _full(nic: Simulated) -> list[VfPolicy]:
    return [
        nic.vf(0, 10, 20, 30, macs=("02:ab:00:00:10:00",), storm_limit=500, allow_mcast=False),
        nic.vf(1, 100, strip_ctag=True, rate=Rate(bps=10**9), min_rate=Rate(bps=10**8)),
        nic.vf(
            2,
            200,
            strip_stag=True,
            pcp=5,
            max_rx_rate=Rate(bps=4 * 10**8),
            allow_un_ucast=True,
            mirror=(Mirror(target=3),),
        ),
        nic.vf(3, mac_anti_spoof=False, vlan_anti_spoof=False, allow_bcast=False),
    ]


def test_a_nic_in_switchdev_mode_is_enforced_by_flower_rules(switchdev: Simulated) -> None:
    switchdev.set(*_full(switchdev), enable_loopback=True, tpid=0x88A8)
    switchdev.nic.observe()  # what the CPU runs is known from what is read back
    offers = switchdev.nic.capabilities.vf
    assert offers["vlans"].support is Support.ENFORCED
    assert offers["vlans"].by == "switchdev"
    assert offers["min_rate"].by == "devlink"
    assert offers["vm_mac"].by == "rtnetlink"


def test_what_was_asked_is_read_back(switchdev: Simulated) -> None:
    wanted = switchdev.set(*_full(switchdev), enable_loopback=True, tpid=0x88A8)
    assert switchdev.observed() == switchdev.expected()
    for vf in wanted.vfs:
        shown = switchdev.observed()[vf.vfid]
        assert shown is not None
        for name in (
            "vlans",
            "macs",
            "mirror",
            "storm_limit",
            "rate",
            "min_rate",
            "max_rx_rate",
            "vm_mac",
        ):
            assert getattr(shown, name) == getattr(vf, name)
    pf = switchdev.nic.observe().pf
    assert pf is not None
    assert (pf.enable_loopback, pf.tpid) == (True, 0x88A8)


def test_a_second_process_reads_the_same(switchdev: Simulated) -> None:
    from vfd.nic.kernel import open as open_kernel

    switchdev.set(*_full(switchdev))
    other = open_kernel(switchdev.pf)
    try:
        shown = {vfid: state.rules for vfid, state in other.observe().vfs.items()}
    finally:
        other.close()
    assert shown == switchdev.expected()


def test_every_rule_is_in_hardware_but_the_notes(switchdev: Simulated) -> None:
    switchdev.set(*_full(switchdev), enable_loopback=True)
    netdevs = [switchdev.netdev, *(switchdev.representor(vfid) for vfid in range(4))]
    for netdev in netdevs:
        rules = switchdev.rules_of(netdev)
        assert rules
        for rule in rules:
            options = rule["options"]
            if rule["chain"] == 0x0FFFFFFF:
                assert options["skip_hw"]
            else:
                assert options["skip_sw"], rule
                assert options["in_hw"], rule


def _actions(rule: dict[str, Any]) -> list[dict[str, Any]]:
    return list(rule["options"]["actions"])


def test_tc_shows_the_tag_the_mirror_and_the_policer(switchdev: Simulated) -> None:
    switchdev.set(*_full(switchdev), enable_loopback=True, tpid=0x88A8)
    service = [
        action
        for rule in switchdev.rules_of(switchdev.representor(2))
        for action in _actions(rule)
        if action["kind"] == "vlan" and action["vlan_action"] == "push"
    ]
    assert {(action["id"], action["protocol"]) for action in service} == {(200, "802.1ad")}
    rules = switchdev.rules_of(switchdev.representor(2))
    mirrors = [a for rule in rules for a in _actions(rule) if a.get("mirred_action") == "mirror"]
    assert switchdev.representor(3) in {action["to_dev"] for action in mirrors}
    police = [
        action
        for rule in switchdev.rules_of(switchdev.representor(0))
        for action in _actions(rule)
        if action["kind"] == "police"
    ]
    assert police
    text = run("tc", "filter", "show", "dev", switchdev.representor(0), "ingress")
    assert "pkts_rate 500" in text
    assert "pkts_burst 50" in text, text
    text = run("tc", "filter", "show", "dev", switchdev.netdev, "ingress")
    assert "rate 400Mbit" in text, text


def test_a_vf_without_a_policy_is_dropped_at_its_representor(switchdev: Simulated) -> None:
    switchdev.set(switchdev.vf(0, 10))
    (rule,) = switchdev.rules_of(switchdev.representor(1))
    assert [action["control_action"]["type"] for action in _actions(rule)] == ["drop"]
    assert switchdev.observed()[1] is None
    assert switchdev.ip_shows(1)["link_state"] == "disable"


def _is_up(netdev: str) -> bool:
    return bool(int(Path(f"/sys/class/net/{netdev}/flags").read_text(), 16) & 1)


def test_representors_of_open_vfs_are_up_and_the_others_down(switchdev: Simulated) -> None:
    run("ip", "link", "set", switchdev.representor(2), "up")
    switchdev.set(switchdev.vf(0, 10), switchdev.vf(1, 20, link_status="off"))
    assert [_is_up(switchdev.representor(vfid)) for vfid in range(4)] == [True, False, False, False]
    assert switchdev.observed() == switchdev.expected()
    switchdev.set(switchdev.vf(1, 20))
    assert [_is_up(switchdev.representor(vfid)) for vfid in range(4)] == [False, True, False, False]
    assert switchdev.observed() == switchdev.expected()


@pytest.mark.parametrize(("vfid", "way"), [(1, "down"), (3, "up")])
def test_a_representor_set_up_or_down_by_hand_is_seen_and_put_back(
    switchdev: Simulated, vfid: int, way: str
) -> None:
    policies = _full(switchdev)[:3]
    switchdev.set(*policies)
    switchdev.nic.events()
    run("ip", "link", "set", switchdev.representor(vfid), way)
    assert (EventKind.DRIFT, vfid) in [(e.kind, e.vfid) for e in switchdev.nic.events()]
    shown, expected = switchdev.observed(), switchdev.expected()
    assert [each for each in shown if shown[each] != expected[each]] == [vfid]
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()
    assert _is_up(switchdev.representor(vfid)) is (way == "down")


class _Dressed(NetdevsimPf):
    """netdevsim under another driver's name: what the backend knows of that one holds."""

    def driver(self) -> str:
        return "mlx5_core"


def test_with_mlx5_the_representor_is_the_link_and_rtnetlink_is_not_asked(
    switchdev: Simulated,
) -> None:
    switchdev.nic.close()
    switchdev.nic = KernelNic(switchdev.pf, _Dressed(switchdev.name), find_surfaces)
    switchdev.set(switchdev.vf(0, 10), switchdev.vf(1, 20, link_status="off"))
    assert switchdev.observed() == switchdev.expected()
    assert [_is_up(switchdev.representor(vfid)) for vfid in range(4)] == [True, False, False, False]
    assert {switchdev.ip_shows(vfid)["link_state"] for vfid in range(4)} == {"auto"}
    can = switchdev.nic.capabilities
    assert can.vf["link_status"].by == "switchdev"
    assert "auto is as on" in can.vf["link_status"].limit
    assert can.closed.support is Support.ENFORCED
    assert switchdev.observed()[2] is None


def test_offload_is_turned_on_at_the_uplink_and_the_representors(switchdev: Simulated) -> None:
    netdevs = [switchdev.netdev, *(switchdev.representor(vfid) for vfid in range(4))]

    def offloading() -> list[str]:
        return [name for name in netdevs if "hw-tc-offload: on" in run("ethtool", "-k", name)]

    assert offloading() == []  # netdevsim's are made as those of real NICs: off
    switchdev.set(*_full(switchdev))
    assert offloading() == netdevs


def test_a_rule_that_is_removed_by_hand_is_seen_and_put_back(switchdev: Simulated) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    representor = switchdev.representor(1)
    before = switchdev.rules_of(representor)
    victim = next(rule for rule in before if rule["chain"] == 1)
    run("tc", "filter", "del", "dev", representor, "ingress", "chain", "1", "pref",
        str(victim["pref"]))  # fmt: skip
    shown, expected = switchdev.observed(), switchdev.expected()
    assert [vfid for vfid in shown if shown[vfid] != expected[vfid]] == [1]
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()


def test_a_change_of_rules_from_outside_is_heard(switchdev: Simulated) -> None:
    switchdev.set(*_full(switchdev))
    switchdev.nic.events()  # the echo of what was set
    assert switchdev.nic.events() == []
    run("tc", "filter", "del", "dev", switchdev.representor(1), "ingress", "chain", "1")
    seen: list[Event] = []

    def heard() -> bool:
        seen.extend(switchdev.nic.events())
        return bool(seen)

    until(heard)
    assert [(event.kind, event.vfid) for event in seen] == [(EventKind.DRIFT, 1)]


def test_a_rule_that_lets_everything_pass_is_seen_and_removed(switchdev: Simulated) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    representor = switchdev.representor(2)
    run("tc", "filter", "add", "dev", representor, "ingress", "pref", "2", "protocol", "all",
        "flower", "skip_hw", "action", "pass")  # fmt: skip
    assert switchdev.observed()[2] != switchdev.expected()[2]
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()
    assert all(rule["pref"] != 2 for rule in switchdev.rules_of(representor) if not rule["chain"])


FOREIGN = {
    "matchall before ours": ("pref", "1", "protocol", "all", "matchall", "skip_hw",
                             "action", "mirred", "egress", "redirect", "dev", "REPRESENTOR"),
    "another key before ours": ("pref", "2", "protocol", "ip", "flower", "skip_hw",
                                "ip_proto", "udp", "action", "pass"),
    "another key beside ours": ("pref", "10", "protocol", "all", "flower", "skip_hw",
                                "src_mac", "02:ff:00:00:00:01", "action", "skbedit", "mark", "1"),
    "a chain of its own": ("chain", "77", "pref", "3", "protocol", "all", "matchall", "skip_hw",
                           "action", "drop"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("port", [2, WIRE])
def test_a_filter_of_somebody_else_is_seen_and_removed(
    switchdev: Simulated, what: str, port: int
) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    netdev = switchdev.netdev if port == WIRE else switchdev.representor(port)
    before = switchdev.rules_of(netdev)
    switchdev.nic.events()
    words = [switchdev.representor(3) if word == "REPRESENTOR" else word for word in FOREIGN[what]]
    run("tc", "filter", "add", "dev", netdev, "ingress", *words)
    assert {event.kind for event in switchdev.nic.events()} == {EventKind.DRIFT}
    shown, expected = switchdev.observed(), switchdev.expected()
    wrong = {vfid for vfid in shown if shown[vfid] != expected[vfid]}
    assert wrong == ({port} if port != WIRE else {0, 1, 2, 3})
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()
    assert switchdev.rules_of(netdev) == before


def test_filters_of_the_host_behind_ours_at_the_uplink_stay(switchdev: Simulated) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    run("tc", "filter", "add", "dev", switchdev.netdev, "ingress", "protocol", "all", "matchall",
        "skip_hw", "action", "pass")  # fmt: skip
    assert switchdev.observed() == switchdev.expected()
    switchdev.set(*policies[:2])
    assert switchdev.observed() == switchdev.expected()
    assert [r for r in switchdev.rules_of(switchdev.netdev) if r["kind"] == "matchall"]


def test_a_change_of_one_vf_touches_no_rule_of_another(switchdev: Simulated) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    before = {vfid: switchdev.rules_of(switchdev.representor(vfid)) for vfid in (0, 2, 3)}
    policies[1] = switchdev.vf(1, 101, strip_ctag=True)
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()
    for vfid, rules in before.items():
        now = switchdev.rules_of(switchdev.representor(vfid))
        assert [r["options"]["handle"] for r in now] == [r["options"]["handle"] for r in rules]


def test_a_refused_change_leaves_all_as_it_was(switchdev: Simulated) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    was = switchdev.policy
    too_much = Rate(bps=10**15)  # netdevsim takes rates below 2^16 Mbit/s
    with pytest.raises(NicError):
        switchdev.set(*policies[:3], switchdev.vf(3, 77, rate=too_much))
    switchdev.policy = was
    assert switchdev.observed() == switchdev.expected()


def test_random_policies_are_read_back(switchdev: Simulated) -> None:
    rng = random.Random(1)
    for _ in range(4):
        vfs = [
            switchdev.vf(
                vfid,
                *rng.sample((1, 2, 63, 100, 4094), rng.choice((0, 1, 3))),
                strip_ctag=rng.random() < 0.3,
                macs=(mac(0x100 + vfid),) if rng.random() < 0.5 else (),
                mac_anti_spoof=rng.random() < 0.8,
                vlan_anti_spoof=rng.random() < 0.8,
                allow_bcast=rng.random() < 0.8,
                allow_un_ucast=rng.random() < 0.4,
                storm_limit=rng.choice((0, 10, 1000)),
                link_status=rng.choice(("on", "auto", "off")),
                mirror=(Mirror(target=(vfid + 1) % 4, vlans=(1, 7)),) if rng.random() < 0.5 else (),
            )
            for vfid in rng.sample(range(4), rng.choice((2, 3, 4)))
        ]
        switchdev.set(*vfs, enable_loopback=rng.random() < 0.5)
        assert switchdev.observed() == switchdev.expected()


def test_devlink_shows_the_rates(switchdev: Simulated) -> None:
    switchdev.set(*_full(switchdev))
    text = run("devlink", "port", "function", "rate", "show")
    line = next(line for line in text.splitlines() if "tx_max" in line)
    assert "tx_max 1Gbit" in line
    assert "tx_share 100Mbit" in line
    switchdev.set(switchdev.vf(1, 100, strip_ctag=True))
    assert "tx_max" not in run("devlink", "port", "function", "rate", "show")


@pytest.mark.parametrize("count", [64, 256])
def test_many_vfs_are_set_and_read_back(count: int) -> None:
    with Simulated(vfs=count, switchdev=True) as nic:
        nic.set(*(nic.vf(vfid, 1 + vfid, strip_ctag=True) for vfid in range(count)))
        assert nic.observed() == nic.expected()


def test_a_group_of_the_administrators_keeps_its_vfs_and_its_rates(switchdev: Simulated) -> None:
    group = f"netdevsim/{switchdev.name}/tenant"
    port = f"netdevsim/{switchdev.name}/{_port_index(switchdev, 1)}"
    run("devlink", "port", "function", "rate", "add", group, "tx_max", "3gbit")
    run("devlink", "port", "function", "rate", "set", port, "parent", "tenant")
    switchdev.set(*_full(switchdev))
    assert switchdev.observed() == switchdev.expected()
    rates = json.loads(run("devlink", "-j", "port", "function", "rate", "show"))["rate"]
    assert rates[port]["parent"] == "tenant"
    assert rates[port]["tx_max"] == rates[group]["tx_max"] // 3
    run("devlink", "port", "function", "rate", "set", port, "noparent")
    run("devlink", "port", "function", "rate", "del", group)


def test_rates_changed_by_hand_are_heard_and_put_back(switchdev: Simulated) -> None:
    policies = _full(switchdev)
    switchdev.set(*policies)
    switchdev.nic.events()
    port = f"netdevsim/{switchdev.name}/{_port_index(switchdev, 1)}"
    run("devlink", "port", "function", "rate", "set", port, "tx_max", "5mbit", "tx_share", "1mbit")
    assert [(e.kind, e.vfid) for e in switchdev.nic.events()] == [(EventKind.DRIFT, 1)]
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()


def _port_index(nic: Simulated, vfid: int) -> int:
    ports = json.loads(run("devlink", "-j", "port", "show"))["port"]
    return next(
        int(name.rpartition("/")[2])
        for name, port in ports.items()
        if name.startswith(f"netdevsim/{nic.name}/") and port.get("vfnum") == vfid
    )


def _mode(nic: Simulated, mode: str) -> None:
    run("devlink", "dev", "eswitch", "set", f"netdevsim/{nic.name}", "mode", mode)


def test_a_change_of_the_mode_is_heard_and_other_surfaces_enforce(switchdev: Simulated) -> None:
    policies = [switchdev.vf(1, 100, strip_ctag=True), switchdev.vf(2, 200, strip_ctag=True)]
    switchdev.set(*policies)
    switchdev.nic.events()
    _mode(switchdev, "legacy")
    told = switchdev.nic.events()
    assert [event.kind for event in told] == [EventKind.BACK]
    assert "legacy mode" in told[0].text
    assert switchdev.nic.capabilities.vf["vlans"].by == "rtnetlink"
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()
    assert switchdev.ip_shows(1)["vlan_list"][0]["vlan"] == 100
    assert switchdev.rules_of(switchdev.netdev) == []  # they would drop the host's frames
    _mode(switchdev, "switchdev")
    assert [event.kind for event in switchdev.nic.events()] == [EventKind.BACK]
    assert switchdev.nic.capabilities.vf["vlans"].by == "switchdev"
    switchdev.set(*policies)
    assert switchdev.observed() == switchdev.expected()
    assert switchdev.ip_shows(1).get("vlan_list", [{}])[0].get("vlan", 0) == 0


def test_a_driver_that_devlink_loads_anew_is_lost_and_back(switchdev: Simulated) -> None:
    switchdev.set(switchdev.vf(1, 100, strip_ctag=True))
    switchdev.nic.events()
    run("devlink", "dev", "reload", f"netdevsim/{switchdev.name}")
    assert EventKind.BACK in [event.kind for event in switchdev.nic.events()]
    assert switchdev.nic.link() is not None
