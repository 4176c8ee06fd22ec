"""NICs that take some rules and refuse others, as E810 and BCM57xxx do: no chain but the first.

netdevsim takes everything, so a rule that such a NIC would refuse is given to a netdev without any
offload, where the kernel refuses it in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.lab_netdevsim.simulated import Simulated, run

from vfd.nic.kernel.flower import WIRE, Goto, Rule
from vfd.nic.kernel.flower_netlink import SKIP_SW, Tc
from vfd.nic.kernel.switchdev_record import RECORD
from vfd.nic.netlink import Message, Netlink
from vfd.nic.protocol import Support
from vfd.policy.values import Mirror

REFUSER = "refuser"


class _ChainZero(Tc):
    """A NIC that takes rules of the first chain only, and none that leads to another."""

    def __init__(self, netlink: Netlink) -> None:
        super().__init__(netlink)
        self._refuser = int(Path(f"/sys/class/net/{REFUSER}/ifindex").read_text())
        self.prepare([self._refuser])

    def put(
        self, rule: Rule, ports: Mapping[int, int], old: int | None, flags: int, new: int = 0
    ) -> Message:
        leads_on = rule.place.chain or any(isinstance(action, Goto) for action in rule.actions)
        if flags & SKIP_SW and leads_on:
            ports = {**ports, rule.place.port: self._refuser}
        return super().put(rule, ports, old, flags, new)


@pytest.fixture
def nic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    run("ip", "link", "add", REFUSER, "type", "dummy")
    monkeypatch.setattr("vfd.nic.kernel.switchdev_find.Tc", _ChainZero)
    with Simulated(vfs=4, switchdev=True) as made:
        yield made
    run("ip", "link", "del", REFUSER)


def _in_hardware(nic: Simulated, port: int) -> set[bool]:
    netdev = nic.netdev if port == WIRE else nic.representor(port)
    return {"in_hw" in rule["options"] for rule in nic.rules_of(netdev) if rule["chain"] != RECORD}


def test_a_vf_whose_rules_are_refused_is_the_cpus_and_the_others_stay_the_nics(
    nic: Simulated,
) -> None:
    nic.set()  # all closed: rules that this NIC takes
    assert [_in_hardware(nic, vfid) for vfid in range(4)] == [{True}] * 4
    assert "known once" in nic.nic.capabilities.vf["vlans"].limit
    nic.set(nic.vf(0, 10, 20), nic.vf(2, 30, link_status="off"))
    assert nic.observed() == nic.expected()
    assert [_in_hardware(nic, vfid) for vfid in range(4)] == [{False}, {True}, {True}, {True}]
    assert _in_hardware(nic, WIRE) == {True}
    can = nic.nic.capabilities.vf["vlans"]
    assert can.support is Support.LIMITED
    assert can.limit.startswith("enforced by the CPU for VF 0:")


def test_what_is_the_cpus_stays_so_and_is_read_back(nic: Simulated) -> None:
    nic.set(nic.vf(0, 10))
    nic.set(nic.vf(0, 10, 11), nic.vf(1, 10, strip_ctag=True), enable_loopback=True)
    assert nic.observed() == nic.expected()
    nic.set(nic.vf(0, 12, mirror=(Mirror(target=1),)), nic.vf(1, 10, strip_ctag=True))
    assert nic.observed() == nic.expected()
    assert [_in_hardware(nic, vfid) for vfid in range(3)] == [{False}, {False}, {True}]
    nic.set()
    assert nic.observed() == nic.expected()


def test_a_port_with_rules_of_both_kinds_becomes_the_cpus(nic: Simulated) -> None:
    nic.set(nic.vf(0, 10), nic.vf(1, 10))
    representor = nic.representor(0)
    rule = next(r for r in nic.rules_of(representor) if r["chain"] == 0 and r["pref"] == 12)
    run("tc", "filter", "change", "dev", representor, "ingress", "pref", "12", "protocol", "all",
        "handle", hex(rule["options"]["handle"]), "flower", "action", "drop")  # fmt: skip
    assert _in_hardware(nic, 0) == {True, False}
    nic.set(nic.vf(0, 11), nic.vf(1, 10))
    assert _in_hardware(nic, 0) == {False}
    assert nic.observed() == nic.expected()
