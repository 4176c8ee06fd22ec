"""The emulated 82576 that tests of the daemon use, and how drift on it is made and timed."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.lab.daemon import LabDaemon, kernel_shows

from vfd.nic.kernel.link import read_link
from vfd.nic.kernel.sriov import PciPf
from vfd.nic.kernel.vfinfo import RTM_SETLINK, Step, VfSettings, set_vfs
from vfd.nic.netlink import Message, Netlink
from vfd.nic.protocol import NicError

PF = "0000:01:00.0"
DEVICE = PciPf(PF)
PATH = Path("/sys/bus/pci/devices") / PF
STAYS: dict[str, Any] = {
    "pciid": PF,
    "vfid": 2,
    "vlans": [200],
    "strip_ctag": True,
    "vm_mac": "02:00:00:00:00:02",
    "rate": "300Mbps",
}
AS_ASKED = {
    "mac": "02:00:00:00:00:02",
    "vlan": 200,
    "rate": 300,
    "spoofchk": True,
    "trust": False,
}
CLOSED = {"mac": "00:00:00:00:00:00", "vlan": 0, "rate": 0, "spoofchk": True, "trust": False}


def pf_name() -> str:
    return DEVICE.uplink()[0]


def vf_address(vfid: int) -> str:
    return (PATH / f"virtfn{vfid}").readlink().name


def shows(vfid: int, asked: dict[str, Any]) -> bool:
    try:
        return kernel_shows(pf_name(), vfid) == asked
    except (NicError, subprocess.CalledProcessError, KeyError, IndexError):
        return False


WITHIN = 0.2
"""Seconds for a repair."""
TRIES = 5
PAUSE = 0.7
"""Seconds from a repair to the next drift: beyond 20 repairs in 10 s the daemon takes its time."""
ROUNDS = 3
"""A host that does other things has its moments."""
BUSY = 2.0
"""As many times as long as it could a repair may take where all work does; a daemon that looked
every second would still be seen."""


def repair_times(vfd: LabDaemon, drifts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Makes VF 2's settings wrong in each of these ways; the median of the seconds until each is
    right again, after the daemon was seen to report it."""
    netlink = Netlink()
    index = DEVICE.uplink()[1]
    right = read_link(netlink, index).vfs[2]
    took = {}
    for what, wrong in drifts.items():
        seen = vfd.last_event()
        times = [_repair(netlink, index, right, replace(right, **wrong)) for _ in range(TRIES)]
        took[what] = statistics.median(times)
        assert "repaired" in vfd.told(seen, "drift", 2)
    netlink.close()
    print(
        f"\nfrom drift to repair, in guest time, median of {TRIES}: {in_words(took)};"
        f" work takes {slowdown():.1f} times as long as it could"
    )
    return took


def hold_to_200_ms(measure: Callable[[], dict[str, float]]) -> None:
    """Fails where repairs take longer each time."""
    told = []
    for _ in range(ROUNDS):
        took, allowed = measure(), WITHIN * min(slowdown(), BUSY)
        if max(took.values()) < allowed:
            return
        told.append(f"{in_words(took)} from drift to repair, not {allowed * 1000:.0f}")
    pytest.fail("\n".join(told))


def slowdown() -> float:
    """How many times as long the same work takes as when nothing interrupts it."""
    took = []
    for _ in range(1000):
        began = time.perf_counter()
        sum(range(1000))
        took.append(time.perf_counter() - began)
    return statistics.mean(took) / min(took)


def in_words(took: dict[str, float]) -> str:
    return ", ".join(f"{what} {seconds * 1000:.0f} ms" for what, seconds in took.items())


def _repair(netlink: Netlink, index: int, right: VfSettings, wrong: VfSettings) -> float:
    """Makes VF 2's settings wrong; seconds until they are right again."""
    message = Message(RTM_SETLINK, set_vfs(index, [Step(2, right, wrong)])[0])
    before = time.monotonic()
    netlink.send([message])
    while read_link(netlink, index).vfs[2] != right:
        assert time.monotonic() - before < 60, f"{wrong} was not repaired"
        time.sleep(0.005)
    took = time.monotonic() - before
    time.sleep(PAUSE)
    return took
