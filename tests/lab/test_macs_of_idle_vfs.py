"""A MAC that was taken from a VF of the emulated 82576 is on nobody's netdev any more.

igb gives a VF its MAC when the VF's driver binds, and so an idle netdev wears it until then. One
daemon for all tests, which take it as the one before left it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.daemon import LabDaemon, ip, kernel_shows, netdev_of, until
from tests.lab.igb import DEVICE, PF, pf_name, vf_address

from vfd.nic.kernel.sriov import (
    DRIVERS,
    PCI_DEVICES,
    bind,
    link_name,
    override_of,
    set_override,
    write_patiently,
)

ZERO = "00:00:00:00:00:00"
M = "02:00:00:00:05:01"
OTHER = "02:00:00:00:05:02"
CHOSEN = "02:00:00:00:05:03"
NETNS = f"guest-{os.getpid()}"


@pytest.fixture(scope="module")
def vfd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabDaemon]:
    DEVICE.set_num_vfs(0)
    daemon = LabDaemon(tmp_path_factory.mktemp("vfd"), {"id": PF, "vfs": 4})
    daemon.start()
    ip("netns", "add", NETNS)
    yield daemon
    daemon.kill()
    ip("netns", "del", NETNS)
    DEVICE.set_num_vfs(0)


@pytest.fixture(autouse=True)
def any_driver_may_bind() -> Iterator[None]:
    """Whatever was bound anew, the next driver may be another."""
    yield
    assert [override_of(vf_address(vfid)) for vfid in range(4)] == [""] * 4


@pytest.fixture(autouse=True)
def nobody_there(vfd: LabDaemon) -> Iterator[None]:
    """Whatever became of the test."""
    yield
    for vfid in range(4):
        vfd.ask("DELETE", vfd.vf(f"vf{vfid}"))
        if netdev := netdev_of(vf_address(vfid)):
            ip("link", "set", netdev, "down")


def worn(vfid: int) -> str:
    """The MAC of the VF's netdev in this namespace; '' where it has none now."""
    try:
        return (Path("/sys/class/net") / netdev_of(vf_address(vfid)) / "address").read_text()[:17]
    except OSError:
        return ""


def add(vfd: LabDaemon, vfid: int, **config: Any) -> None:
    asked = {"pciid": PF, "vfid": vfid, "vlans": [10 + vfid], "strip_ctag": True, **config}
    status, answer = vfd.add(f"vf{vfid}", asked)
    assert status in (200, 201), answer


def update(vfd: LabDaemon, vfid: int, **config: Any) -> None:
    asked = {"pciid": PF, "vfid": vfid, "vlans": [10 + vfid], "strip_ctag": True, **config}
    vfd.must("PUT", vfd.vf(f"vf{vfid}"), {"config": {"name": f"vf{vfid}", **asked}})


def delete(vfd: LabDaemon, vfid: int) -> None:
    vfd.must("DELETE", vfd.vf(f"vf{vfid}"))


def test_a_tenants_mac_is_gone_with_its_configuration(vfd: LabDaemon) -> None:
    add(vfd, 0, vm_mac=M)
    assert worn(0) == M
    delete(vfd, 0)
    assert worn(0) not in (M, "")
    add(vfd, 1, vm_mac=M)
    add(vfd, 0)
    assert worn(1) == M
    assert worn(0) not in (M, "")
    delete(vfd, 0)
    delete(vfd, 1)


def test_a_guest_that_held_its_vf_at_the_close_leaves_no_mac_when_it_lets_go(
    vfd: LabDaemon,
) -> None:
    add(vfd, 0, vm_mac=M)
    netdev = netdev_of(vf_address(0))
    ip("link", "set", netdev, "up")
    until("the guest", lambda: vfd.row(PF, 0)["extended"]["held"])
    delete(vfd, 0)
    assert worn(0) == M
    assert M in vfd.row(PF, 0)["extended"]["guest"]
    ip("link", "set", netdev, "down")
    until("another MAC", lambda: worn(0) not in (M, ""))


def test_a_guest_in_another_namespace_leaves_no_mac_when_that_ends(vfd: LabDaemon) -> None:
    """Nor one that it chose itself."""
    add(vfd, 0)
    netdev = netdev_of(vf_address(0))
    ip("link", "set", netdev, "netns", NETNS)
    ip("-n", NETNS, "link", "set", netdev, "address", CHOSEN)
    ip("-n", NETNS, "link", "set", netdev, "up")
    until("the guest", lambda: vfd.row(PF, 0)["extended"]["held"])
    assert kernel_shows(pf_name(), 0)["mac"] == CHOSEN
    delete(vfd, 0)
    assert kernel_shows(pf_name(), 0)["mac"] == ZERO
    ip("-n", NETNS, "link", "set", netdev, "down")
    ip("-n", NETNS, "link", "set", netdev, "netns", "1")
    until("another MAC", lambda: worn(0) not in (CHOSEN, ""))


def test_a_guest_keeps_the_mac_that_it_chose_over_a_restart(vfd: LabDaemon) -> None:
    """And one that was forced is taken back by the first update that no longer states it."""
    add(vfd, 2, vm_mac=M)
    add(vfd, 3, vm_mac=OTHER)
    add(vfd, 0)
    free, held = netdev_of(vf_address(0)), netdev_of(vf_address(3))
    ip("link", "set", free, "address", CHOSEN)
    for netdev in (free, held):
        ip("link", "set", netdev, "up")
    until("its MAC", lambda: kernel_shows(pf_name(), 0)["mac"] == CHOSEN)
    vfd.kill()
    vfd.start()
    assert kernel_shows(pf_name(), 0)["mac"] == CHOSEN
    assert not [e for e in vfd.events() if e["kind"] == "drift" and e["vfid"] == 0]
    update(vfd, 0, rate="100Mbps")
    assert kernel_shows(pf_name(), 0)["mac"] == CHOSEN
    for vfid in (2, 3):
        update(vfd, vfid)
        assert kernel_shows(pf_name(), vfid)["mac"] not in (M, OTHER)
    assert worn(2) not in (M, "")
    add(vfd, 1, vm_mac=M)
    assert [worn(1), kernel_shows(pf_name(), 1)["mac"]] == [M, M]
    ip("link", "set", held, "down")
    until("another MAC", lambda: worn(3) not in (OTHER, ""))
    for vfid in range(4):
        delete(vfd, vfid)
    ip("link", "set", free, "down")
    until("another MAC", lambda: worn(0) not in (CHOSEN, ""))


def test_a_daemon_that_starts_finishes_a_close_that_was_cut_short(vfd: LabDaemon) -> None:
    """Killed between taking the MAC at the PF and binding the VF's driver anew."""
    add(vfd, 0, vm_mac=M)
    vfd.kill()
    for file in vfd.config_dir.glob("*.json"):
        file.unlink()
    # a deletion is kept before the file goes: without that it would look as if a mount were missing
    vfd.socket.with_suffix(".files").unlink()
    ip("link", "set", pf_name(), "vf", "0", "mac", ZERO)
    assert worn(0) == M
    vfd.start()
    until("another MAC", lambda: worn(0) not in (M, ""))


def test_a_daemon_that_starts_finishes_a_binding_that_was_cut_short(vfd: LabDaemon) -> None:
    """Killed between the two writes with which it binds a VF's driver anew. A VF that somebody
    else took from its driver stays without."""
    address, other = vf_address(0), vf_address(1)
    vfd.kill()
    set_override(address, "igbvf")
    for one in (address, other):
        write_patiently(DRIVERS / "igbvf/unbind", one)
    vfd.start()
    until("its driver", lambda: link_name(PCI_DEVICES / address / "driver") == "igbvf")
    assert not link_name(PCI_DEVICES / other / "driver")
    bind(other, "igbvf")
    set_override(other, "")
