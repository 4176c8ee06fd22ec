"""Finding PFs and saying what is wrong where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfd.nic.kernel import netdevsim
from vfd.nic.kernel.sriov import PciPf, find_pf, write
from vfd.nic.protocol import NicError, NicGoneError


def test_an_address_without_a_device_is_gone() -> None:
    with pytest.raises(NicGoneError, match=r"ffff:ff:1f\.7"):
        find_pf("ffff:ff:1f.7")


def test_a_netdev_without_a_device_is_no_pf() -> None:
    with pytest.raises(NicError, match="lo"):
        find_pf("lo")


def test_a_pf_that_is_gone_has_nothing() -> None:
    gone = PciPf("ffff:ff:1f.7")
    assert not gone.exists()
    assert gone.vfs() == ()
    assert gone.total_vfs() == gone.num_vfs() == 0
    with pytest.raises(NicGoneError, match="no netdev"):
        gone.uplink()


def test_a_refused_write_says_what_was_asked_and_what_the_kernel_answered() -> None:
    with pytest.raises(NicError, match=r"'7'.*No such file or directory"):
        write(PciPf("ffff:ff:1f.7").path / "sriov_numvfs", "7")


def pf_in(folder: Path, monkeypatch: pytest.MonkeyPatch, driver: str = "mlx5_core") -> PciPf:
    """A PF whose files in sysfs are in ``folder``."""
    pf = PciPf("0000:01:00.0")
    (folder / pf.address).mkdir()
    (folder / pf.address / "driver").symlink_to(f"/sys/bus/pci/drivers/{driver}")
    monkeypatch.setattr("vfd.nic.kernel.sriov.PCI_DEVICES", folder)
    return pf


def test_the_uplink_is_no_representor_of_whatever_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netdevs = tmp_path / "nets"
    monkeypatch.setattr("vfd.nic.kernel.sriov.NETDEVS", netdevs)
    pf = pf_in(tmp_path, monkeypatch)
    ports = {"en0sf": "pf0sf88", "en1": "pf0", "en2": "c1pf0vf1", "en3": "pf0vf0", "enp1": "p0"}
    for index, (name, port) in enumerate(ports.items()):
        (pf.path / "net" / name).mkdir(parents=True)
        (netdevs / name).mkdir(parents=True)
        (netdevs / name / "phys_port_name").write_text(port)
        (netdevs / name / "ifindex").write_text(str(index))
    assert pf.uplink() == ("enp1", 4)


@pytest.mark.parametrize(("before", "asked", "driver"), [(0, 4, "bnxt_en"), (4, 0, "ice")])
def test_a_count_that_the_driver_takes_and_does_not_make_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, asked: int, driver: str
) -> None:
    """bnxt_sriov_configure returns 0 while the PF is down, which is success to the kernel."""
    pf = pf_in(tmp_path, monkeypatch, driver)
    (pf.path / "sriov_numvfs").write_text(str(before))
    monkeypatch.setattr("vfd.nic.kernel.sriov.write", lambda *_: None)
    with pytest.raises(NicError, match=f"{asked} VFs asked for.* left it at {before}") as error:
        pf.set_num_vfs(asked)
    assert ("netdev is up" in str(error.value)) == (driver == "bnxt_en")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../0000:01:00.0", "0000:01:00.0\n"])
def test_what_is_no_plain_name_leads_to_no_device(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below whatever folder there is something of that name."""
    devices = tmp_path / "devices"
    (devices / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr("vfd.nic.kernel.netdevsim._DEVICES", devices)
    monkeypatch.setattr("vfd.nic.kernel.sriov.PCI_DEVICES", devices)
    assert netdevsim.find(name) is None
    with pytest.raises(NicError):
        find_pf(name)


def test_a_pf_in_a_pci_domain_of_more_digits_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind Intel's VMD: 10000:01:00.0."""
    (tmp_path / "10000:01:00.0").mkdir()
    monkeypatch.setattr("vfd.nic.kernel.sriov.PCI_DEVICES", tmp_path)
    assert find_pf("10000:01:00.0").address == "10000:01:00.0"


def test_a_vf_is_no_pf_and_its_own_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:10.0").mkdir()
    (tmp_path / "0000:01:10.0/physfn").symlink_to("../0000:01:00.0")
    monkeypatch.setattr("vfd.nic.kernel.sriov.PCI_DEVICES", tmp_path)
    with pytest.raises(NicError, match=r"a VF of 0000:01:00\.0"):
        find_pf("0000:01:10.0")
