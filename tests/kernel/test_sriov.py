"""Finding PFs and saying what is wrong where there is none."""

from __future__ import annotations

import pytest

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
