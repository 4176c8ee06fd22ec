"""``"unconfigured": "leave"``: VFs without a configuration are another manager's, and stay as they
are. One whose configuration goes is closed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfd.api.views import health, show
from vfd.daemon.failures import StorageError
from vfd.daemon.managed import Managed
from vfd.daemon.service import Service
from vfd.daemon.watch import handle
from vfd.nic.protocol import Event, EventKind
from vfd.policy.requests import Request, RequestKind
from vfd.policy.values import VfRules

from .plain_nic import PlainNic, add, nic_of, restarted

THEIRS = VfRules(vlans=(77,), strip_ctag=True, vm_mac="52:54:00:00:00:77")


def leave(service: Service, how: str = "leave") -> None:
    """A reload whose main file says so."""
    [pf] = service.main.nics
    pf = pf.model_copy(update={"unconfigured": how})
    service.reload(service.main.model_copy(update={"nics": (pf,)}))


@pytest.fixture
def left(service: Service) -> tuple[Service, Managed, PlainNic]:
    """VF 0 is configured, VF 1 another manager's."""
    leave(service)
    add(service, "vm1", 0)
    [managed] = service.nics.values()
    nic = nic_of(service)
    nic.rules[1] = THEIRS
    return service, managed, nic


def drift(service: Service, managed: Managed, nic: PlainNic, *vfids: int) -> None:
    nic.told += [Event(EventKind.DRIFT, vfid) for vfid in vfids]
    handle(service, managed)


def told(service: Service, kind: str) -> list[int | None]:
    return [one.vfid for one in service.journal.since(0) if one.kind == kind]


def states(service: Service) -> list[str]:
    return [row.state.value for row in show(service, None, None, False).rows if row.kind == "vf"]


def test_what_another_manager_does_to_its_vfs_stays_and_is_no_drift(
    left: tuple[Service, Managed, PlainNic],
) -> None:
    service, managed, nic = left
    mine = nic.rules[0]
    drift(service, managed, nic, 1)
    assert (nic.rules[1], told(service, "drift")) == (THEIRS, [])
    nic.rules[0] = THEIRS
    drift(service, managed, nic, 0, 1)
    assert (nic.rules[0], nic.rules[1]) == (mine, THEIRS)
    assert told(service, "drift") == [0]
    nic.told.append(Event(EventKind.OVERRUN))
    handle(service, managed)
    nic.unplug()
    handle(service, managed)
    nic.plug_in()
    handle(service, managed)
    leave(service)
    assert (nic.rules[0], nic.rules[1]) == (mine, THEIRS)


def test_they_are_listed_as_not_managed_and_trouble_nobody(
    left: tuple[Service, Managed, PlainNic],
) -> None:
    service, managed, nic = left
    drift(service, managed, nic, 1)
    assert states(service) == ["ok", "not-managed", "not-managed", "not-managed"]
    answer = health(service)
    assert (answer.status, answer.pfs[0].not_managed) == ("ok", [1, 2, 3])
    nic.told.append(Event(EventKind.REQUEST, 1, request=Request(1, RequestKind.MTU, mtu=1500)))
    handle(service, managed)
    assert (nic.answered, told(service, "refused")) == (0, [])


def test_a_start_leaves_them_and_closes_none(
    left: tuple[Service, Managed, PlainNic], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, nic = left
    (service.files.folder / "torn.json").write_text("{")  # whose it is nobody can tell
    again = restarted(service, monkeypatch)
    again.start()
    try:
        assert nic.rules[1] == THEIRS
        [managed] = again.nics.values()
        assert managed.kept == {}
        assert states(again)[:2] == ["ok", "not-managed"]
    finally:
        again.stop()
        nic.reopen()


def test_a_deleted_vf_is_closed_once_and_left_from_then(
    left: tuple[Service, Managed, PlainNic],
) -> None:
    service, managed, nic = left
    service.delete("vm1")
    assert nic.rules[0] is None
    assert states(service)[0] == "not-managed"
    nic.rules[0] = THEIRS
    drift(service, managed, nic, 0)
    leave(service)
    assert nic.rules[0] == THEIRS


def test_a_vf_that_is_deleted_while_its_pf_is_lost_is_closed_once_it_is_back(
    left: tuple[Service, Managed, PlainNic],
) -> None:
    service, managed, nic = left
    nic.unplug()
    handle(service, managed)
    made = service.delete("vm1")
    assert made is not None
    assert "unless the daemon starts again" in made.warnings[0]
    nic.plug_in()
    handle(service, managed)
    assert (nic.rules[0], nic.rules[1]) == (None, THEIRS)


def test_a_vf_is_closed_before_its_file_goes_so_that_no_kill_leaves_it_open(
    left: tuple[Service, Managed, PlainNic], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, nic = left
    was = nic.rules[0]

    def full(file: str) -> None:
        assert nic.rules[0] is None, file
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(service.files, "retire", full)
    with pytest.raises(StorageError):
        service.delete("vm1")
    assert nic.rules[0] == was
    assert (service.files.folder / "vm1.json").exists()


def test_a_file_that_is_gone_at_a_reload_closes_its_vf_and_no_other(
    left: tuple[Service, Managed, PlainNic],
) -> None:
    service, _, nic = left
    add(service, "vm2", 2)
    Path(service.files.folder, "vm1.json").unlink()
    leave(service)
    assert (nic.rules[0], nic.rules[1]) == (None, THEIRS)
    assert nic.rules[2] is not None


def test_a_vf_that_gets_a_configuration_is_managed_and_its_callback_is_due(
    left: tuple[Service, Managed, PlainNic],
) -> None:
    service, managed, nic = left
    service.came_into_force()
    managed.look()
    add(service, "vm2", 1)
    assert nic.rules[1] is not None
    assert nic.rules[1].vlans == (101,)
    assert [one.policy.name for one in service.came_into_force()] == ["vm2"]
    assert states(service)[1] == "ok"


def test_leaving_begins_and_ends_with_a_reload(left: tuple[Service, Managed, PlainNic]) -> None:
    service, managed, nic = left
    leave(service, "closed")
    assert nic.rules[1] is None
    assert states(service)[1] == "closed"
    nic.rules[1] = THEIRS
    drift(service, managed, nic, 1)
    assert nic.rules[1] is None
    leave(service)
    nic.rules[1] = THEIRS
    drift(service, managed, nic, 1)
    assert nic.rules[1] == THEIRS
