"""What others do to a PF and its VFs is heard, also where netlink tells nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.kernel.modelled import Modelled
from tests.kernel.modelled_nic import ADDRESS, ModelledPf, modelled_pf, plain_pf
from tests.kernel.vf_operations import PlainVfs, VfSeen

from vfd.nic.kernel.events import EventSource, Heard, Notice
from vfd.nic.kernel.nic import KernelNic
from vfd.nic.protocol import EventKind
from vfd.plan.changes import VfChange
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

PF = PfPolicy(id=ADDRESS)


def set_policy(nic: KernelNic, vfid: int = 1) -> None:
    vf = VfPolicy.model_validate({"name": "a", "pciid": ADDRESS, "vfid": vfid, "vlans": [5, 6]})
    before = nic.observe().vfs[vfid].rules
    nic.apply(
        NicPolicy(pf=PF, vfs=(vf,)), [VfChange(vfid, before, nic.expressible(vfid, vf.rules))]
    )
    nic.observe()
    nic.events()


def drifted(nic: KernelNic) -> set[int | None]:
    return {event.vfid for event in nic.events() if event.kind is EventKind.DRIFT}


@pytest.fixture(params=["intel", "mellanox"])
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pf(vendor: str) -> Iterator[tuple[ModelledPf, Modelled]]:
    with modelled_pf(vendor) as made:
        yield made


@pytest.mark.root
def test_what_others_write_to_a_vendors_files_is_drift(
    pf: tuple[ModelledPf, Modelled], vendor: str
) -> None:
    device, model = pf
    nic = device.open(PF)
    try:
        set_policy(nic)
        assert drifted(nic) == set()
        by_hand = {"intel": "add 99", "mellanox": "add 99 99"}[vendor]
        (model.root / "1/trunk").write_text(by_hand)
        assert drifted(nic) == {1}
        set_policy(nic)
        assert drifted(nic) == set()
        assert 99 not in model.vf(1)["trunk"]
    finally:
        nic.close()


@pytest.mark.root
def test_the_files_of_vfs_that_were_made_anew_are_watched_too(
    pf: tuple[ModelledPf, Modelled], vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, model = pf
    nic = device.open(PF)
    try:
        set_policy(nic)
        model.act("numvfs", "0")
        model.act("numvfs", "4")
        tell_of_new_vfs(monkeypatch)
        assert 1 in drifted(nic)
        monkeypatch.undo()
        set_policy(nic)
        by_hand = {"intel": "add 99", "mellanox": "add 99 99"}[vendor]
        (model.root / "1/trunk").write_text(by_hand)
        assert drifted(nic) == {1}
    finally:
        nic.close()


def test_vfs_that_were_made_anew_have_drifted_though_they_are_as_many() -> None:
    """``echo 0`` and ``echo 4`` one after the other: only the second count is seen."""
    operations = PlainVfs([VfSeen() for _ in range(4)])
    with plain_pf("ice", operations) as device, pytest.MonkeyPatch.context() as monkeypatch:
        nic = device.open(PF)
        try:
            operations.seen[1].vlan = 5
            nic.observe()
            operations.seen[1] = VfSeen()
            tell_of_new_vfs(monkeypatch)
            assert drifted(nic) == {1}
        finally:
            nic.close()


def tell_of_new_vfs(monkeypatch: pytest.MonkeyPatch) -> None:
    notices = [Notice(Heard.DEVICE, action="add", address="0000:01:02.1")]
    monkeypatch.setattr(EventSource, "read", lambda _: notices)
