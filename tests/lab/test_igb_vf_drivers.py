"""VFs bound to vfio-pci by the daemon, as a PF's ``vf_driver`` asks: idle ones, guests' never.

One daemon for all tests, which take it as the one before left it. VF 6 was in use when it started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest
from tests.lab.daemon import LabDaemon, ip, kernel_shows, netdev_of, until
from tests.lab.igb import (
    AS_ASKED,
    DEVICE,
    PATH,
    PF,
    STAYS,
    hold_to_200_ms,
    pf_name,
    repair_times,
    vf_address,
)

from vfd.nic.kernel.sriov import PCI_DEVICES, bind
from vfd.nic.protocol import NicError


@pytest.fixture(scope="module")
def vfd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabDaemon]:
    subprocess.run(["modprobe", "vfio-pci"], check=True, timeout=60)
    DEVICE.set_num_vfs(7)
    ip("link", "set", netdev_of(vf_address(6)), "up")
    daemon = LabDaemon(
        tmp_path_factory.mktemp("vfd"), {"id": PF, "vfs": 7, "vf_driver": "vfio-pci"}
    )
    daemon.write("stays", {"name": "stays", **STAYS})
    daemon.start()
    yield daemon
    daemon.kill()
    DEVICE.set_num_vfs(0)


def driver_of(vfid: int) -> str:
    link = PCI_DEVICES / vf_address(vfid) / "driver"
    return link.readlink().name if link.exists() else ""


def override_of(vfid: int) -> str:
    return (PCI_DEVICES / vf_address(vfid) / "driver_override").read_text().strip()


def bind_by_hand(vfid: int) -> None:
    """To igbvf. The daemon may bind it again before it is seen to be bound, which is an error."""

    def bound() -> bool:
        try:
            bind(vf_address(vfid), "igbvf")
        except NicError:
            return False
        return True

    until("igbvf", bound)


def group_of(vfid: int) -> int:
    return int((PCI_DEVICES / vf_address(vfid) / "iommu_group").readlink().name)


@contextlib.contextmanager
def guests_on(*vfids: int) -> Iterator[None]:
    """Holds the VFs by their groups, as QEMU does."""
    with contextlib.ExitStack() as opened:
        for vfid in vfids:
            opened.callback(os.close, os.open(f"/dev/vfio/{group_of(vfid)}", os.O_RDWR))
        yield


def test_idle_vfs_have_the_driver_that_is_wanted_and_one_in_use_keeps_its_own(
    vfd: LabDaemon,
) -> None:
    assert [driver_of(vfid) for vfid in range(6)] == ["vfio-pci"] * 6
    assert driver_of(6) == "igbvf"
    assert "igbvf" in vfd.row(PF, 6)["extended"]["guest"]
    assert vfd.row(PF, None)["state"] == "ok"
    assert kernel_shows(pf_name(), 2) == AS_ASKED


@pytest.mark.usefixtures("vfd")
def test_a_vf_gets_it_when_its_guest_lets_go() -> None:
    ip("link", "set", netdev_of(vf_address(6)), "down")
    until("vfio-pci", lambda: driver_of(6) == "vfio-pci")


def test_an_idle_vf_that_was_bound_by_hand_is_bound_again_and_reported(vfd: LabDaemon) -> None:
    seen = vfd.last_event()
    bind_by_hand(3)
    assert "vf_driver" in vfd.told(seen, "drift")
    until("vfio-pci", lambda: driver_of(3) == "vfio-pci")


def test_what_pci_tells_of_a_vf_is_shown(vfd: LabDaemon) -> None:
    """A machine of one node says of no device where it is, so the test does."""
    for path in (PATH, PCI_DEVICES / vf_address(5)):
        (path / "numa_node").write_text("0")
    bind_by_hand(5)  # the daemon binds it again, and looks
    until("NUMA node", lambda: vfd.row(PF, 5)["extended"]["numa_node"] == 0)
    until("vfio-pci", lambda: vfd.row(PF, 5)["extended"]["driver"] == "vfio-pci")
    more = vfd.row(PF, 5)["extended"]
    assert more["iommu_group"] == group_of(5)
    assert more["msix"] == 3
    assert vfd.row(PF, None)["extended"]["numa_node"] == 0


def test_a_guest_that_holds_a_vf_by_vfio_holds_the_count(vfd: LabDaemon) -> None:
    with guests_on(5):
        status, answer = vfd.ask("PATCH", f"/v1/pfs/{PF}", {"vfs": 4, "force": False})
        assert status in (409, 422), answer
        assert "vfio-pci" in str(answer)
        assert f"[{os.getpid()}]" in str(answer)
        assert DEVICE.num_vfs() == 7


@pytest.mark.measured
def test_drift_is_repaired_within_200_ms_while_guests_hold_vfs_by_vfio(vfd: LabDaemon) -> None:
    """Who holds a VF is looked for in all of /proc: not before the repair."""
    others = [subprocess.Popen(["sleep", "600"]) for _ in range(40)]
    try:
        with guests_on(*range(6)):  # the last one has a guest on igbvf, or had
            drift = {"vlan, 6 guests on vfio": {"vlan": 4000}}
            hold_to_200_ms(lambda: repair_times(vfd, drift))
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_new_vfs_have_their_rules_before_their_driver(vfd: LabDaemon) -> None:
    vfd.must("PATCH", f"/v1/pfs/{PF}", {"vfs": 5, "force": True})
    assert [driver_of(vfid) for vfid in range(5)] == ["vfio-pci"] * 5
    assert (PATH / "sriov_drivers_autoprobe").read_text().strip() == "1"
    assert kernel_shows(pf_name(), 2) == AS_ASKED


@pytest.mark.usefixtures("vfd")
@pytest.mark.parametrize(("driver", "says"), [("no-such", "modprobe"), ("virtio-pci", "none")])
def test_a_driver_that_can_not_have_a_vf_leaves_it_with_its_old_one(driver: str, says: str) -> None:
    assert (driver_of(1), override_of(1)) == ("vfio-pci", "vfio-pci")
    with pytest.raises(NicError, match=says):
        bind(vf_address(1), driver)
    assert (driver_of(1), override_of(1)) == ("vfio-pci", "vfio-pci")
