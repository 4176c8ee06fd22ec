"""The real daemon on a NIC in switchdev mode: what others change is repaired at once and told."""

from __future__ import annotations

import json
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.lab.daemon import LabDaemon, until
from tests.lab_netdevsim.simulated import Simulated, mac, run

from vfd.nic.kernel.devlink import Devlink, Rates
from vfd.nic.kernel.flower_netlink import SKIP_HW, Tc
from vfd.nic.kernel.switchdev_netdevs import Netdevs
from vfd.nic.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    Netlink,
    attr_text,
    attr_u32,
    nest,
)

VF = 2
VLANS = [10, 20]
WITHIN = 0.2
"""Seconds for a repair."""
UPDATES = 1.2
"""As many times as long as an operator's update a repair may take where that is longer: so slow an
emulated processor may be."""
TRIES = 8
ENOUGH = 3
"""So many tries are made in any case, for a median to tell."""
PAUSE = 1.0
"""Seconds between tries: whoever undoes repairs oftener is answered once a second."""


@dataclass(frozen=True)
class Running:
    nic: Simulated
    vfd: LabDaemon
    netlink: Netlink
    index: int
    """The representor's, of the VF that has a policy."""

    def found(self) -> set[object]:
        """The VF's rules, and what else stands there."""
        found = Tc(self.netlink).read({VF: self.index})
        return {*found.rules.items(), *found.foreign}


def _guest(nic: Simulated, vlans: list[int]) -> dict[str, object]:
    rules = {"vlans": vlans, "vm_mac": mac(VF), "rate": "300Mbps"}
    return {"name": "guest", "pciid": nic.name, "vfid": VF, **rules}


def _representor(nic: Simulated) -> int:
    with open(f"/sys/class/net/{nic.representor(VF)}/ifindex") as file:
        return int(file.read())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Simulated(vfs=4, switchdev=True) as nic:
        nic.nic.close()
        vfd = LabDaemon(tmp_path_factory.mktemp("vfd"), {"id": nic.name, "backend": "kernel"})
        vfd.write("guest", _guest(nic, VLANS))
        vfd.start()
        assert vfd.row(nic.name, VF)["state"] == "ok", vfd.said()[-2000:]
        yield Running(nic, vfd, Netlink(), _representor(nic))
        vfd.kill()


def _remove_a_rule(running: Running) -> None:
    tc = Tc(running.netlink)
    own = next(one for one in tc.read({VF: running.index}).own() if one.chain == 1)
    tc.evict([own], {VF: running.index})


def _add_a_matchall(running: Running) -> None:
    head = struct.pack("=BxxxiIII", 0, running.index, 0, 0xFFFFFFF2, 1 << 16 | 0x0300)
    options = nest(2, attr_u32(3, SKIP_HW))
    body = head + attr_text(1, "matchall") + options
    running.netlink.send([Message(44, body, NLM_F_CREATE | NLM_F_EXCL, "matchall")])


def _set_the_representor_down(running: Running) -> None:
    Netdevs(running.netlink).set_up({running.index: False})


def _set_another_rate(running: Running) -> None:
    devlink = Devlink("netdevsim", running.nic.name)
    port = next(port.index for port in devlink.ports() if port.vfid == VF)
    devlink.set_rates({port: Rates(0, 10**6)})
    devlink.close()


def _rate(running: Running) -> int:
    devlink = Devlink("netdevsim", running.nic.name)
    port = next(port.index for port in devlink.ports() if port.vfid == VF)
    rate = devlink.rates()[port].maximum
    devlink.close()
    return rate


DRIFTS: dict[str, tuple[Callable[[Running], None], Callable[[Running], object]]] = {
    "a rule removed": (_remove_a_rule, Running.found),
    "a matchall before ours": (_add_a_matchall, Running.found),
    "the representor down": (
        _set_the_representor_down,
        lambda running: Netdevs(running.netlink).up({running.index}),
    ),
    "another rate": (_set_another_rate, _rate),
}


@pytest.mark.measured
@pytest.mark.parametrize("what", DRIFTS)
def test_what_is_changed_by_hand_is_repaired_within_200_ms_and_told(
    running: Running, what: str
) -> None:
    """A busy host stretches the guest's time, so the best of some tries counts."""
    change, look = DRIFTS[what]
    right = look(running)
    took: list[float] = []
    updates: list[float] = []
    allowed = WITHIN
    while len(took) < ENOUGH or (min(took) >= allowed and len(took) < TRIES):
        updates += [_update(running, vlans) for vlans in ([10, 30], VLANS)]
        allowed = max(WITHIN, UPDATES * min(updates))
        seen = running.vfd.last_event()
        before = time.monotonic()
        change(running)
        assert look(running) != right or time.monotonic() - before > 0.02, "nothing was changed"
        while look(running) != right:
            assert time.monotonic() - before < 30, f"{what}: not repaired"
            time.sleep(0.005)
        took.append(time.monotonic() - before)
        assert "repaired" in running.vfd.told(seen, "drift", VF)
        time.sleep(PAUSE)
    median = statistics.median(took)
    words = f"{min(took) * 1000:.0f} ms, median of {len(took)} tries {median * 1000:.0f} ms"
    limit = f"an update takes {min(updates) * 1000:.0f} ms, so {allowed * 1000:.0f} ms are allowed"
    print(f"\nfrom drift to repair in guest time, {what}: {words}; {limit}")
    assert min(took) < allowed, took


def _update(running: Running, vlans: list[int]) -> float:
    """An operator gives the VF these; seconds until that is answered."""
    config = _guest(running.nic, vlans)
    before = time.monotonic()
    running.vfd.must("PUT", "/v1/vfs/guest", {"config": config})
    return time.monotonic() - before


def test_a_change_of_the_mode_is_followed_and_what_it_cannot_do_is_closed_until_it_can(
    running: Running,
) -> None:
    """Legacy mode has one VLAN per VF: this file's two can't be enforced there."""
    device = f"netdevsim/{running.nic.name}"
    seen = running.vfd.last_event()
    run("devlink", "dev", "eswitch", "set", device, "mode", "legacy")
    assert "legacy mode" in running.vfd.told(seen, "back")
    assert "vlans" in running.vfd.told(seen, "bad-file")
    until("a closed VF", lambda: running.nic.ip_shows(VF)["link_state"] == "disable")
    assert running.vfd.row(running.nic.name, VF)["state"] == "closed"
    seen = running.vfd.last_event()
    run("devlink", "dev", "eswitch", "set", device, "mode", "switchdev")
    assert "switchdev mode" in running.vfd.told(seen, "back")
    until("an open VF", lambda: running.vfd.row(running.nic.name, VF)["state"] == "ok")
    assert replace(running, index=_representor(running.nic)).found()


def test_iplex_caps_shows_the_parameters_of_devlink(running: Running) -> None:
    command = [str(Path(sys.executable).with_name("iplex")), "--socket", str(running.vfd.socket)]
    said = run(*command, "caps", running.nic.name)
    [line] = [line for line in said.splitlines() if line.split()[:1] == ["max_macs"]]
    assert "32 unicast MACs" in line
    [shown] = json.loads(run(*command, "--json", "caps", running.nic.name))["device"]
    assert (shown["attribute"], shown["by"]) == ("max_macs", "devlink")
