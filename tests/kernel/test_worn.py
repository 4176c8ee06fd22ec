"""No netdev of a VF goes on wearing a MAC that was taken from it, whatever its driver.

What the VFs' drivers do is modelled: those of igb, ixgbe and mlx5 ask for their MAC when they bind,
iavf and bnxt_en take a new one at once; all keep theirs when it is taken, and choose a random one
when they bind and are given none.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.kernel.modelled_nic import ADDRESS, ModelledPf, ModelPf, plain_pf
from tests.kernel.test_modelled_pfs import add, daemon_on
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.nic.kernel.sriov import VfDevice

M = "02:00:00:00:00:01"
ZERO = "00:00:00:00:00:00"
DRIVERS = {
    "igb": "igbvf",
    "ixgbe": "ixgbevf",
    "mlx5_core": "mlx5_core",
    "i40e": "iavf",
    "ice": "iavf",
    "bnxt_en": "bnxt_en",
}
TAKES_AT_ONCE = ("iavf", "bnxt_en")


class Killed(BaseException):
    """The end of the daemon, between two writes."""


@dataclass(slots=True)
class HostVfs(PlainVfs):
    """The PF's operations, and the VFs' drivers on this host; netdevs are folders in ``nets``."""

    nets: Path = Path()
    driver: str = ""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    overrides: dict[str, str] = field(default_factory=dict)
    unbound: set[str] = field(default_factory=set)
    kill_before: str = ""
    """The write before which the daemon is killed."""

    def call(self, vfid: int, *words: str) -> None:
        PlainVfs.call(self, vfid, *words)
        if words[0] == "mac" and words[1] != ZERO and self.driver in TAKES_AT_ONCE:
            self.wear(vfid, words[1], given=True)

    def wear(self, vfid: int, mac: str, *, given: bool) -> None:
        netdev = self.nets / f"net{vfid}"
        netdev.mkdir(exist_ok=True)
        (netdev / "address").write_text(f"{mac}\n")
        (netdev / "addr_assign_type").write_text("0\n" if given else "1\n")
        (netdev / "flags").write_text("0x1002\n")

    def bind(self, vfid: int) -> None:
        forced = self.seen[vfid].mac
        random = f"02:99:00:00:00:{next(self.numbers):02x}"
        self.wear(vfid, random if forced == ZERO else forced, given=forced != ZERO)
        if self.driver == "igbvf":  # which tells the PF of it
            self.seen[vfid].mac = self.worn(vfid)

    def write(self, path: Path, text: str) -> None:
        """To the driver's ``unbind`` and ``bind``."""
        assert path.parent.name == self.driver
        if path.name == self.kill_before:
            raise Killed
        assert (path.name == "bind") == (text in self.unbound)
        if path.name == "bind":
            self.unbound.discard(text)
            self.bind(int(text[-1]))
        else:
            self.unbound.add(text)

    def probe(self, address: str) -> None:
        """The kernel binds the one driver that may have it, where there is one of that name."""
        if self.overrides.get(address) in ("", self.driver):
            self.unbound.discard(address)
            self.bind(int(address[-1]))

    def worn(self, vfid: int) -> str:
        return (self.nets / f"net{vfid}/address").read_text().strip()

    def is_up(self, vfid: int, up: bool) -> None:
        (self.nets / f"net{vfid}/flags").write_text("0x1003\n" if up else "0x1002\n")


@dataclass(frozen=True, slots=True)
class HostPf(ModelPf):
    """VFs with netdevs."""

    host: HostVfs | None = None

    def vfs(self, only: Collection[int] | None = None) -> tuple[VfDevice, ...]:
        vfids = range(self.num_vfs()) if only is None else sorted(only)
        return tuple(self.vf(vfid) for vfid in vfids)

    def vf(self, vfid: int) -> VfDevice:
        address = f"0000:01:02.{vfid}"
        assert self.host is not None
        if address in self.host.unbound:
            return VfDevice(vfid, address, "", "", None, None, None)
        return VfDevice(vfid, address, self.host.driver, f"net{vfid}", None, None, None)


@pytest.fixture(params=DRIVERS)
def pf(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ModelledPf, HostVfs]]:
    nets = tmp_path / "nets"
    nets.mkdir()
    vfs = HostVfs([VfSeen() for _ in range(3)], nets=nets, driver=DRIVERS[request.param])
    for vfid in range(3):
        vfs.bind(vfid)
    monkeypatch.setattr("vfd.nic.kernel.worn.NETDEVS", nets)
    monkeypatch.setattr("vfd.nic.kernel.guests.NETDEVS", nets)
    monkeypatch.setattr("vfd.nic.kernel.worn.write_patiently", vfs.write)
    monkeypatch.setattr("vfd.nic.kernel.worn.probe", vfs.probe)
    monkeypatch.setattr("vfd.nic.kernel.worn.override_of", lambda at: vfs.overrides.get(at, ""))
    monkeypatch.setattr("vfd.nic.kernel.worn.set_override", vfs.overrides.__setitem__)
    with plain_pf(request.param, vfs) as plain:
        device = HostPf(ADDRESS, plain.device.path, vfs)
        yield ModelledPf(device, plain.netdev), vfs


def test_two_tenants_never_wear_one_mac(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    with daemon_on(device, tmp_path, monkeypatch) as (service, _):
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True, vm_mac=M)
        assert vfs.worn(0) == M
        service.delete("a")
        assert vfs.worn(0) != M
        assert vfs.seen[0].mac == ZERO
        add(service, "b", vfid=1, vlans=[6], strip_ctag=True, vm_mac=M)
        add(service, "c", vfid=0, vlans=[7], strip_ctag=True)
        assert vfs.worn(1) == M
        assert vfs.worn(0) != M


def test_a_tenants_random_mac_does_not_pass_to_the_next(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    with daemon_on(device, tmp_path, monkeypatch) as (service, _):
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True)
        former = vfs.worn(0)
        service.delete("a")
        assert vfs.worn(0) != former


def test_a_guest_keeps_its_netdev_and_its_mac_goes_when_it_lets_go(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    with daemon_on(device, tmp_path, monkeypatch) as (service, managed):
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True, vm_mac=M)
        vfs.is_up(0, True)
        service.delete("a")
        assert vfs.worn(0) == M
        managed.look()
        assert managed.seen
        assert M in managed.seen.vfs[0].guest
        managed.working().revoke(0)  # who has been told too early
        assert vfs.worn(0) == M
        vfs.is_up(0, False)
        managed.working().revoke(0)
        assert vfs.worn(0) != M
        assert vfs.seen[0].mac == ZERO


def test_an_update_that_no_longer_states_a_mac_takes_it_after_a_restart_too(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    vfs.seen[0].mac = vfs.seen[1].mac = M  # before this process; VF 1's is its guest's choice
    vfs.seen[1].mac = chosen = "02:00:00:00:00:77"
    vfs.bind(0)
    files = {
        "a": {"vfid": 0, "vlans": [5], "strip_ctag": True, "vm_mac": M},
        "b": {"vfid": 1, "vlans": [6], "strip_ctag": True},
    }
    with daemon_on(device, tmp_path, monkeypatch, files) as (service, managed):
        assert [vf.mac for vf in vfs.seen[:2]] == [M, chosen]
        assert managed.seen
        rules = managed.seen.vfs[1].rules
        assert rules is not None
        assert rules.vm_mac is None
        (tmp_path / "vfs/a.json").write_text(
            f'{{"pciid": "{ADDRESS}", "vfid": 0, "vlans": [5], "strip_ctag": true}}'
        )
        service.reload(service.main)
        assert M not in (vfs.seen[0].mac, vfs.worn(0))
        assert vfs.seen[1].mac == chosen


def test_a_close_that_was_cut_short_is_finished_at_the_start(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    vfs.wear(0, M, given=True)
    untouched = vfs.worn(1)
    vfs.seen[0].mac = ZERO
    with daemon_on(device, tmp_path, monkeypatch):
        assert vfs.worn(0) != M
        assert vfs.seen[0].mac == ZERO
        assert vfs.worn(1) == untouched


def test_a_vf_whose_file_went_while_no_daemon_ran_is_bound_anew_when_it_closes(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    vfs.seen[0].vlan = 5
    former, untouched = vfs.worn(0), vfs.worn(1)
    with daemon_on(device, tmp_path, monkeypatch):
        assert vfs.seen[0].vlan == 0
        assert vfs.worn(0) != former
        assert vfs.worn(1) == untouched


def test_a_mac_that_becomes_anothers_is_taken_from_an_idle_netdev(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    with daemon_on(device, tmp_path, monkeypatch) as (service, _):
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True)
        own = vfs.worn(0)
        add(service, "b", vfid=1, vlans=[6], strip_ctag=True, vm_mac=own)
        assert vfs.worn(1) == own
        assert vfs.worn(0) != own


def test_a_vf_that_a_daemon_was_killed_over_between_two_drivers_gets_its_driver_at_the_start(
    pf: tuple[ModelledPf, HostVfs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, vfs = pf
    with daemon_on(device, tmp_path, monkeypatch) as (service, _):
        add(service, "a", vfid=0, vlans=[5], strip_ctag=True, vm_mac=M)
        vfs.kill_before = "bind"
        with pytest.raises(Killed):
            service.delete("a")
    vfs.kill_before = ""
    assert vfs.unbound == {"0000:01:02.0"}
    (tmp_path / "next").mkdir()
    with daemon_on(device, tmp_path / "next", monkeypatch):
        assert not vfs.unbound
        assert vfs.worn(0) != M
        assert vfs.seen[0].mac == ZERO
        assert not any(vfs.overrides.values())


@pytest.mark.parametrize("override", ["", "vfio-pci", "igb_uio", "uio_pci_generic"])
def test_a_vf_that_somebody_else_took_from_its_driver_is_left_alone_at_the_start(
    pf: tuple[ModelledPf, HostVfs],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    override: str,
) -> None:
    device, vfs = pf
    vfs.unbound.add("0000:01:02.1")
    vfs.overrides["0000:01:02.1"] = override
    with daemon_on(device, tmp_path, monkeypatch):
        assert vfs.unbound == {"0000:01:02.1"}
        assert vfs.overrides["0000:01:02.1"] == override
