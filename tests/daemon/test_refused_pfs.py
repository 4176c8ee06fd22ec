"""A PF whose configuration is refused: its VFs stay open, and commands put it right."""

from __future__ import annotations

import json

import pytest

from vfd.config.main_file import parse_main
from vfd.daemon import pfs
from vfd.daemon.failures import RefusedError
from vfd.daemon.managed import Managed
from vfd.daemon.service import Service
from vfd.daemon.watch import handle

from .plain_nic import VFS, add, nic_of, restarted


@pytest.fixture
def refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Guests hold its VFs, and its configuration asks for more VFs than the NIC allows."""
    for vfid in range(VFS):
        add(service, f"vm{vfid}", vfid)
    main_file = service.files.main_file
    raw = json.loads(main_file.read_text())
    raw["pciids"] = [{"id": next(iter(service.nics)), "vfs": 64}]
    main_file.write_text(json.dumps(raw))
    service.main = parse_main(main_file.read_text(), file=str(main_file)).config
    nic_of(service).held = True
    again = restarted(service, monkeypatch)
    again.start()
    managed = pf(again)
    assert managed.condition == "failed"
    assert f"at most {VFS} VFs" in managed.detail
    return again


def pf(service: Service) -> Managed:
    [managed] = service.nics.values()
    return managed


def listed(service: Service) -> int:
    """The number of VFs that the main file states."""
    [entry] = json.loads(service.files.main_file.read_text())["pciids"]
    number: int = entry["vfs"]
    return number


def test_another_number_of_vfs_puts_it_right_and_closes_no_vf(refused: Service) -> None:
    nic = nic_of(refused)
    opened = dict(nic.rules)
    closed: list[int] = []
    applied = nic.apply

    def watched(desired: object, changes: object) -> None:
        applied(desired, changes)  # type: ignore[arg-type]
        closed.extend(vfid for vfid, rules in nic.rules.items() if rules is None)

    nic.apply = watched  # type: ignore[method-assign]
    pfs.set_vfs(refused, pf(refused).id, VFS, force=False)
    assert nic.rules == opened
    assert closed == []
    assert {one.policy.name for one in pf(refused).vfs.values()} == {f"vm{v}" for v in range(VFS)}
    assert (pf(refused).condition, pf(refused).refused) == ("ok", "")
    assert listed(refused) == VFS
    assert not refused.bad
    refused.stop()


@pytest.mark.parametrize("force", [False, True])
def test_a_number_that_would_take_open_vfs_changes_nothing(refused: Service, force: bool) -> None:
    """Nobody can tell whose they are before the files are in force."""
    nic = nic_of(refused)
    opened = dict(nic.rules)
    with pytest.raises(RefusedError, match=f"set vfs to {VFS} first"):
        pfs.set_vfs(refused, pf(refused).id, 2, force=force)
    with pytest.raises(RefusedError, match="at most"):
        pfs.set_vfs(refused, pf(refused).id, VFS + 1, force=force)
    assert nic.rules == opened
    assert listed(refused) == 64
    assert pf(refused).condition == "failed"
    refused.stop()


def test_its_files_are_told_to_be_out_of_force_and_can_be_deleted(refused: Service) -> None:
    nic = nic_of(refused)
    assert set(refused.bad) == {f"vm{vfid}.json" for vfid in range(VFS)}
    [problem] = refused.bad["vm1.json"].problems
    assert (problem.field, f"at most {VFS} VFs" in problem.rule) == ("pciid", True)
    assert refused.delete("vm1") is None
    assert not (refused.files.folder / "vm1.json").exists()
    assert None not in nic.rules.values()
    nic.held = False
    pfs.set_vfs(refused, pf(refused).id, VFS, force=False)
    assert [vfid for vfid, rules in nic.rules.items() if rules is None] == [1]
    refused.stop()


def back_with_2_vfs(service: Service) -> str:
    """VFs 0 and 1 are open, and the NIC has only room for them when it is back. Why that is
    refused."""
    for vfid in range(2):
        add(service, f"vm{vfid}", vfid)
    nic = nic_of(service)
    nic.unplug()
    handle(service, pf(service))
    nic.max_vfs = 2
    nic.plug_in()
    handle(service, pf(service))
    assert "at most 2 VFs" in pf(service).detail
    return pf(service).detail


def test_another_number_of_vfs_puts_a_pf_right_that_is_refused_when_it_is_back(
    service: Service,
) -> None:
    back_with_2_vfs(service)
    pfs.set_vfs(service, pf(service).id, 2, force=False)
    assert (pf(service).condition, pf(service).refused) == ("ok", "")
    assert nic_of(service).rules[1] is not None


def test_a_vf_of_a_pf_that_is_refused_when_it_is_back_is_deleted(service: Service) -> None:
    refused = back_with_2_vfs(service)
    nic = nic_of(service)
    assert service.delete("vm0") is not None
    assert nic.rules[0] is None
    assert nic.rules[1] is not None
    assert [path.name for path in service.files.folder.iterdir()] == ["vm1.json"]
    assert (pf(service).condition, pf(service).detail) == ("failed", refused)
