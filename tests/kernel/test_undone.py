"""A change that a NIC refuses half way, or takes and does not keep, leaves the NIC as it was."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from tests.daemon.plain_nic import tried_again
from tests.kernel.modelled import Modelled
from tests.kernel.modelled_nic import ADDRESS, modelled_pf, plain_pf
from tests.kernel.test_modelled_pfs import add, daemon_on, vf
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.daemon.managed import Condition
from vfd.daemon.service import Source
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.protocol import NicError
from vfd.plan.changes import Change, PfChange, VfChange
from vfd.plan.plan import Observed, plan
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

PF = PfPolicy(id=ADDRESS)
A, B, C = (f"02:00:00:00:00:{n:02x}" for n in (10, 11, 12))


@pytest.fixture
def ice() -> Iterator[tuple[KernelNic, PlainVfs]]:
    vfs = PlainVfs([VfSeen() for _ in range(3)])
    with plain_pf("ice", vfs) as device:
        nic = device.open(PF)
        yield nic, vfs
        nic.close()


def policy(vfid: int, vid: int, mac: str, **more: Any) -> VfPolicy:
    config = {"name": f"vf{vfid}", "vlans": [vid], "strip_ctag": True, "vm_mac": mac, **more}
    return VfPolicy.model_validate(vf(vfid=vfid, **config))


def changes(nic: KernelNic, desired: NicPolicy) -> tuple[Any, ...]:
    seen = nic.observe()
    observed = Observed(seen.pf, {v: state.rules for v, state in seen.vfs.items()})
    return plan(desired, observed, nic.expressible, pf_fields={"vfs"})


def go(nic: KernelNic, *vfs: VfPolicy) -> None:
    desired = NicPolicy(pf=PF, vfs=vfs)
    nic.apply(desired, changes(nic, desired))
    assert not changes(nic, desired)


def test_a_vf_that_changes_in_two_steps_is_undone_to_where_it_was(
    ice: tuple[KernelNic, PlainVfs],
) -> None:
    """VFs that swap their MACs: one lets its own go first."""
    nic, vfs = ice
    go(nic, policy(0, 5, A), policy(1, 6, B))
    before = deepcopy(vfs.seen)
    desired = NicPolicy(pf=PF, vfs=(policy(0, 7, B), policy(1, 6, A)))
    steps = changes(nic, desired)
    assert [step.vfid for step in steps].count(0) == 2
    vfs.refuses["vlan", "7", "0", "802.1Q"] = errno.EBUSY
    with pytest.raises(NicError, match="refused"):
        nic.apply(desired, steps)
    assert vfs.seen == before
    assert nic.observe().vfs[0].rules == nic.expressible(0, policy(0, 5, A).rules)


def test_vfs_that_swap_macs_never_have_one_both(ice: tuple[KernelNic, PlainVfs]) -> None:
    nic, vfs = ice
    go(nic, policy(0, 5, A), policy(1, 6, B), policy(2, 7, C))
    macs = {0: A, 1: B, 2: C}
    number = len(vfs.calls)
    go(nic, policy(0, 5, B), policy(1, 6, C), policy(2, 7, A))
    for vfid, words in vfs.calls[number:]:
        if words[0] == "mac":
            macs[vfid] = words[1]
            owned = [mac for mac in macs.values() if mac != "00:00:00:00:00:00"]
            assert len(owned) == len(set(owned)), macs
    assert macs == {0: B, 1: C, 2: A}


def test_a_vf_that_cannot_be_put_back_keeps_no_other_from_it(
    ice: tuple[KernelNic, PlainVfs],
) -> None:
    """A VF in a reset refuses everything, what it had before too."""
    nic, vfs = ice
    go(nic, policy(0, 5, A), policy(1, 6, B), policy(2, 7, C))
    before = deepcopy(vfs.seen)
    vfs.breaks[1] = ("trust", "1")
    desired = NicPolicy(
        pf=PF, vfs=(policy(0, 15, A), policy(1, 16, B, trust=True), policy(2, 6, C))
    )
    with pytest.raises(NicError, match=r"refused.*VF 1"):
        nic.apply(desired, changes(nic, desired))
    assert vfs.seen[0] == before[0]
    assert vfs.seen[2] == before[2]


def test_a_driver_that_vfs_cannot_have_leaves_their_rules_as_they_were(
    ice: tuple[KernelNic, PlainVfs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is bound after the rules are written."""
    nic, vfs = ice
    go(nic, policy(0, 5, A))
    before = deepcopy(vfs.seen)

    def no_module(*_: object) -> None:
        raise NicError("there is no driver no-such")

    monkeypatch.setattr("vfd.nic.kernel.pf.bind_idle", no_module)
    after = PF.model_copy(update={"vf_driver": "no-such"})
    desired = NicPolicy(pf=after, vfs=(policy(0, 8, B), policy(1, 9, C)))
    seen = nic.observe()
    assert seen.pf
    steps: list[Change] = [
        PfChange(seen.pf, after),
        VfChange(0, seen.vfs[0].rules, nic.expressible(0, policy(0, 8, B).rules)),
        VfChange(1, None, nic.expressible(1, policy(1, 9, C).rules)),
    ]
    with pytest.raises(NicError, match="no-such"):
        nic.apply(desired, steps)
    assert vfs.seen == before


STORED: dict[tuple[str, ...], tuple[dict[str, Any], tuple[str, ...]]] = {
    ("mac", B): ({"vm_mac": B}, ("mac", C)),
    ("vlan", "9", "0", "802.1Q"): ({"vlans": [9]}, ("vlan", "99", "0", "802.1Q")),
    ("rate", "0", "500"): ({"rate": "500Mbps"}, ("rate", "0", "400")),
    ("spoofchk", "0"): ({"mac_anti_spoof": False}, ()),
    ("trust", "1"): ({"trust": True, "allow_un_ucast": True}, ()),
    ("state", "1"): ({"link_status": "on"}, ("state", "2")),
}
"""By the call: what asks for it, and the call that the driver makes of it."""


@pytest.mark.parametrize("call", STORED, ids=lambda call: call[0])
@pytest.mark.parametrize("driver", ["ice", "mlx5_core", "i40e"])
def test_a_setting_that_a_driver_takes_and_stores_otherwise_is_told_and_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, call: tuple[str, ...]
) -> None:
    change, stored = STORED[call]
    vfs = PlainVfs([VfSeen() for _ in range(2)])
    config: dict[str, Any] = {"vfid": 0, "vlans": [5], "strip_ctag": True, "vm_mac": A}
    config["rate"] = "200Mbps"
    with (
        plain_pf(driver, vfs) as device,
        daemon_on(device, tmp_path, monkeypatch, strict=False) as (service, managed),
    ):
        add(service, "a", **config)
        before = deepcopy(vfs.seen)
        vfs.spoils[call] = stored
        with pytest.raises(NicError, match="shows something else"):
            service.update("a", Source(name="a", config=vf(name="a", **{**config, **change})), 0, 0)
        assert (0, call) in vfs.calls
        assert vfs.seen == before
        assert managed.seen
        assert managed.seen.vfs[0].rules == managed.working().expressible(
            0, policy(0, 5, A, rate="200Mbps").rules
        )
        assert managed.condition is Condition.OK


def test_what_could_not_be_undone_is_not_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver stores something else at each change, the one back too."""
    vfs = PlainVfs([VfSeen() for _ in range(2)])
    config: dict[str, Any] = {"vfid": 0, "vlans": [5], "strip_ctag": True, "vm_mac": A}
    with (
        plain_pf("ice", vfs) as device,
        daemon_on(device, tmp_path, monkeypatch) as (service, managed),
    ):
        add(service, "a", **config)
        vfs.spoils["vlan",] = ("vlan", "99", "0", "802.1Q")
        with pytest.raises(NicError, match="could not be undone") as refused:
            service.update(
                "a", Source(name="a", config=vf(name="a", **{**config, "vlans": [6]})), 0, 0
            )
        assert "It was undone" not in str(refused.value)
        assert "undoing it failed" in managed.detail
        del vfs.spoils["vlan",]
        tried_again(service)
        assert vfs.seen[0].vlan == 5
        assert managed.condition is Condition.OK


@pytest.mark.root
def test_on_the_x710_too_two_steps_are_undone_to_the_first() -> None:
    with modelled_pf("intel") as (device, model):
        nic = device.open(PF)
        try:
            one = {"vlans": [5, 6], "strip_ctag": False}
            go(nic, policy(0, 5, A, **one, mirror={"target": 1}), policy(1, 5, B, **one))
            before = settings(model)
            desired = NicPolicy(
                pf=PF, vfs=(policy(0, 5, B, **one), policy(1, 5, A, **one, macs=[C]))
            )
            steps = changes(nic, desired)
            number = 1
            while True:
                model.act("fail", f"{number} {errno.EIO}")
                try:
                    nic.apply(desired, steps)
                except NicError:
                    assert settings(model) == before
                    number += 1
                else:
                    break
            assert number > 2
        finally:
            nic.close()


def settings(model: Modelled) -> list[dict[str, Any]]:
    """Of the VFs; in which order mirrors were made makes no difference."""
    return [{**vf, "mirror_rules": sorted(vf["mirror_rules"])} for vf in model.state()["vfs"]]


def swapped(second: dict[str, Any]) -> dict[str, Any]:
    """VFs 0 and 1 with each other's MAC."""
    return {
        "a": {"vfid": 0, "vlans": [5], "strip_ctag": True, "vm_mac": B},
        "b": {"vfid": 1, "vlans": [6], "strip_ctag": True, "vm_mac": A, **second},
    }


@pytest.mark.parametrize("refused", ["vlan", "trust"])
def test_a_mac_goes_to_nobody_while_its_owner_could_not_let_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """All is refused at once, so each VF's change is tried by itself."""
    vfs = PlainVfs([VfSeen() for _ in range(2)])
    files = {
        "a": {"vfid": 0, "vlans": [5], "strip_ctag": True, "vm_mac": A},
        "b": {"vfid": 1, "vlans": [6], "strip_ctag": True, "vm_mac": B},
    }
    changes: dict[str, dict[str, Any]] = {"vlan": {"vlans": [9]}, "trust": {"trust": True}}
    change = changes[refused]
    with (
        plain_pf("ice", vfs) as device,
        daemon_on(device, tmp_path, monkeypatch, files, strict=False) as (service, managed),
    ):
        assert [vf.mac for vf in vfs.seen] == [A, B]
        vfs.refuses[("vlan", "9", "0", "802.1Q")] = errno.EBUSY
        vfs.refuses[("trust", "1")] = errno.EBUSY
        for name, config in swapped(change).items():
            (tmp_path / f"vfs/{name}.json").write_text(json.dumps(vf(name=name, **config)))
        service.reload(service.main)
        assert managed.unmet.keys() == {0, 1}
        assert [vf.mac for vf in vfs.seen] == [A, B]
        vfs.refuses.clear()
        tried_again(service)
        assert [vf.mac for vf in vfs.seen] == [B, A]
        assert managed.condition is Condition.OK
