"""A NIC that is lost, fails or disobeys: what was asked is undone and said, and files can go."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vfd.api.views import pf
from vfd.config.main_file import ParsedMain, parse_main
from vfd.daemon import runner
from vfd.daemon.exclusive import LOCKS, InUseError, lock_nic
from vfd.daemon.flood import BURST, EVERY, Flood
from vfd.daemon.journal import Happening
from vfd.daemon.service import Service
from vfd.daemon.watch import handle
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.policy.requests import Request, RequestKind
from vfd.policy.values import PfPolicy

from .conftest import served
from .harness import Vfd, holds
from .plain_nic import VFS, PlainNic, add, nic_of, restarted, tried_again


def files(service: Service) -> set[str]:
    return {path.name for path in service.files.folder.iterdir()}


def test_a_vf_of_a_lost_pf_is_deleted_and_closes_when_the_pf_is_back(service: Service) -> None:
    add(service, "goes", 0)
    add(service, "stays", 1)
    [managed] = service.nics.values()
    nic = nic_of(service)
    nic.unplug()
    handle(service, managed)
    made = service.delete("goes")
    assert made is not None
    assert "closes once it is" in made.warnings[0]
    assert files(service) == {"stays.json"}
    assert nic.rules[0] is not None
    nic.plug_in()
    handle(service, managed)
    assert nic.rules[0] is None
    assert nic.rules[1] is not None
    assert managed.condition == "ok"


def test_a_vf_closes_when_its_pf_comes_back_unable_to_enforce_what_its_file_states(
    service: Service,
) -> None:
    add(service, "vm1", 0)
    [managed] = service.nics.values()
    nic = nic_of(service)
    nic.unplug()
    handle(service, managed)
    nic.lacks = frozenset({"vlans"})
    nic.plug_in()
    handle(service, managed)
    assert nic.rules[0] is None
    assert files(service) == {"vm1.json"}
    [bad] = service.bad.values()
    assert (bad.problems[0].field, bad.vfid) == ("vlans", 0)
    assert any("not this driver" in event.text for event in service.journal.since(0))


@pytest.mark.parametrize("unreadable", ["", "in a reset"])
def test_a_vf_opens_when_its_pf_comes_back_able_to_enforce_what_its_file_states(
    service: Service, unreadable: str
) -> None:
    """Also where the NIC can't be read at first: until it can, nothing is written to it."""
    add(service, "vm1", 0)
    add(service, "vm2", 1, vm_mac="02:00:00:00:00:01")
    [managed] = service.nics.values()
    nic = nic_of(service)
    for lacks, why in ((frozenset({"vm_mac"}), ""), (frozenset(), unreadable)):
        nic.unplug()
        handle(service, managed)
        nic.rules = dict.fromkeys(range(VFS))
        nic.lacks, nic.unreadable = lacks, why
        nic.plug_in()
        handle(service, managed)
        if why:
            assert (managed.condition, managed.detail) == ("failed", why)
            nic.unreadable = ""
            tried_again(service)
        assert nic.rules[0] is not None
        assert (nic.rules[1] is None) is bool(lacks)
    assert managed.condition == "ok"
    assert not service.bad


def test_a_pf_that_is_lost_at_this_very_moment_lets_its_vf_be_deleted(service: Service) -> None:
    add(service, "goes", 0)
    nic_of(service).gone = True
    assert service.delete("goes") is not None
    assert files(service) == set()
    [managed] = service.nics.values()
    assert managed.condition == "lost"


def test_a_vf_of_a_pf_that_can_not_be_read_is_deleted_and_closes_when_it_can(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nothing is written to the NIC, for it could not be read back."""
    add(service, "goes", 0)
    [managed] = service.nics.values()
    nic = nic_of(service)
    nic.unreadable = "the firmware sulks"
    service.converge(managed)
    with monkeypatch.context() as patch:
        patch.setattr(nic, "apply", lambda *_: pytest.fail("it is written to"))
        made = service.delete("goes")
    assert made is not None
    assert "closes once it is" in made.warnings[0]
    assert files(service) == set()
    assert (managed.condition, managed.detail) == ("failed", "the firmware sulks")
    nic.unreadable = ""
    tried_again(service)
    assert (nic.rules[0], managed.condition) == (None, "ok")


def test_a_working_pf_that_refuses_keeps_the_vf_and_its_file(service: Service) -> None:
    add(service, "vm1", 0)
    nic_of(service).refuses = "not today"
    with pytest.raises(NicError, match="not today"):
        service.delete("vm1")
    assert files(service) == {"vm1.json"}
    assert service.find("vm1")[1].policy.vfid == 0


def test_a_change_that_the_nic_only_pretends_to_make_is_undone_and_said(service: Service) -> None:
    nic_of(service).forgets = True
    with pytest.raises(NicError, match=r"took the change but shows something else.*It was undone"):
        add(service, "vm1", 0)
    assert files(service) == set()
    nic_of(service).forgets = False
    add(service, "vm1", 0)
    assert nic_of(service).rules[0] is not None


def test_a_vf_that_the_nic_can_not_take_keeps_no_other_vf_out_of_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pf = f"t{secrets.token_hex(3)}"
    config_dir = tmp_path / "vfs"
    config_dir.mkdir()
    for vfid in range(4):
        config = {"pciid": pf, "vfid": vfid, "vlans": [100 + vfid]}
        (config_dir / f"vm{vfid}.json").write_text(json.dumps(config))

    def opened(policy: PfPolicy) -> PlainNic:
        nic = PlainNic(policy)
        nic.refuses_vfs = frozenset({1})
        return nic

    with served(tmp_path, pf, opened, monkeypatch) as service:
        [managed] = service.nics.values()
        rules = nic_of(service).rules
        assert {vfid for vfid, rule in rules.items() if rule is not None} == {0, 2, 3}
        assert managed.condition == "drifted"
        assert managed.unmet == {1: "no room for VF 1"}
        # the one that is refused stays out when others change, and comes in when it can
        nic_of(service).rules[2] = None
        nic_of(service).told.append(Event(EventKind.DRIFT, 2))
        handle(service, managed)
        assert {vfid for vfid, rule in rules.items() if rule is not None} == {0, 2, 3}
        nic_of(service).refuses_vfs = frozenset()
        nic_of(service).told.append(Event(EventKind.DRIFT, 1))
        handle(service, managed)
        assert None not in rules.values()
        assert managed.condition == "ok"


def started(service: Service) -> list[str]:
    """Whose start_cb is due now."""
    return [one.policy.name for one in service.came_into_force()]


def test_a_vf_that_the_nic_does_not_open_is_not_started_until_it_is_open(service: Service) -> None:
    nic_of(service).refuses = "the link is down"
    text = json.dumps({"pciid": next(iter(service.nics)), "vfid": 0, "vlans": [1]})
    (service.files.folder / "vm1.json").write_text(text)
    service.load()
    assert started(service) == []
    nic_of(service).refuses = ""
    nic_of(service).told.append(Event(EventKind.LINK))
    handle(service, next(iter(service.nics.values())))
    assert started(service) == ["vm1"]
    assert started(service) == []


def test_a_vf_that_comes_back_with_its_pf_is_started_again(service: Service) -> None:
    add(service, "vm1", 0)
    assert started(service) == ["vm1"]
    [managed] = service.nics.values()
    nic_of(service).unplug()
    handle(service, managed)
    assert started(service) == []
    nic_of(service).rules = dict.fromkeys(nic_of(service).rules)
    nic_of(service).plug_in()
    handle(service, managed)
    assert started(service) == ["vm1"]


def test_a_nic_that_could_not_be_read_is_tried_again_and_told_once(service: Service) -> None:
    add(service, "vm1", 0)
    [managed] = service.nics.values()
    nic_of(service).unreadable = "the firmware sulks"
    nic_of(service).told.append(Event(EventKind.DRIFT))
    handle(service, managed)
    assert managed.condition == "failed"
    assert service.in_trouble()
    tried_again(service)
    assert managed.condition == "failed"
    nic_of(service).unreadable = ""
    tried_again(service)
    assert managed.condition == "ok"
    assert not service.in_trouble()
    told = [e.text for e in service.journal.since(0) if e.kind == "failed"]
    assert told == ["the firmware sulks"]


def test_a_nic_that_can_not_be_read_after_a_change_is_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(service, "vm1", 0)
    [managed] = service.nics.values()
    nic = nic_of(service)
    nic.rules[0] = None

    def apply(*_: object) -> None:
        nic.unreadable = "the firmware sulks"
        raise NicError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(nic, "apply", apply)
        service.converge(managed)
    assert (managed.condition, managed.detail) == ("failed", "the firmware sulks")
    assert service.in_trouble()
    nic.unreadable = ""
    tried_again(service)
    assert managed.condition == "ok"
    assert nic.rules[0] is not None


async def an_hour_passes(daemon: runner.Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever waits for its time in this loop has come, and so has what that had the daemon do."""
    loop, passed = asyncio.get_running_loop(), asyncio.Event()
    loop.call_later(3600, passed.set)
    now = loop.time
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: now() + 3600)
        await passed.wait()
    await daemon.call(int)


def test_what_could_not_be_enforced_is_tried_again_until_it_is_and_told_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(service, "vm0", 0)
    add(service, "vm1", 1)
    nic = nic_of(service)
    again = restarted(service, monkeypatch)
    monkeypatch.setattr(runner, "RETRY", 0.02)
    nic.rules[0], nic.refuses = None, "no memory"

    async def life() -> None:
        parsed = ParsedMain(again.main, ())
        daemon = runner.Daemon(again, again.journal, lambda: parsed, lambda _: None)
        await daemon.start()
        await holds(lambda: nic.refused > 3)
        assert nic.rules[0] is None
        nic.refuses = ""
        await holds(lambda: nic.rules[0] is not None and not again.in_trouble())
        looked = nic.looked
        await an_hour_passes(daemon, monkeypatch)
        assert nic.looked == looked, "nothing is polled while all is well"
        nic.bug = ZeroDivisionError("a bug")
        nic.rules[0] = None
        nic.told.append(Event(EventKind.DRIFT))
        nic.ring()
        await holds(lambda: nic.looked > looked)
        nic.bug = None
        await holds(lambda: nic.rules[0] is not None)
        await daemon.stop()

    asyncio.run(life())
    told = [e.text for e in again.journal.since(0) if e.kind == "failed"]
    assert told == ["not enforced as asked: no memory"]


def test_a_pf_whose_configuration_is_refused_stays_failed_whatever_its_nic_reports(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(service, "vm1", 0)
    again = restarted(service, monkeypatch)
    [managed] = again.nics.values()
    managed.pf = managed.pf.model_copy(update={"vfs": VFS + 1})
    again.start()
    nic_of(again).told.append(Event(EventKind.LINK))
    handle(again, managed)
    assert managed.condition == "failed"
    assert f"at most {VFS} VFs" in managed.detail
    assert not again.in_trouble(), "nothing but another configuration can help"
    assert nic_of(again).rules[0] is not None
    again.load(pfs={managed.id: managed.pf.model_copy(update={"vfs": VFS})})
    assert managed.condition == "ok"
    again.stop()


def test_settings_of_a_pf_that_are_refused_leave_it_as_it_was_and_are_told(
    service: Service,
) -> None:
    add(service, "vm1", 0)
    [managed] = service.nics.values()
    before = managed.pf
    main_file = str(service.files.main_file)
    service.load(pfs={managed.id: before.model_copy(update={"vfs": VFS + 1})})
    assert (managed.condition, managed.pf) == ("ok", before)
    assert f"at most {VFS} VFs" in str(service.bad[main_file].problems[0])
    service.load(pfs={managed.id: before})
    assert main_file not in service.bad


def test_the_daemon_goes_on_looking_after_its_nics_though_one_look_fails(
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A backend with a bug costs a line of the log."""
    monkeypatch.setattr(runner, "LOOK", 0.02)
    stats = tmp_path / "stats"
    service.main = service.main.model_copy(update={"stats_path": str(stats)})
    service.stop()

    async def life() -> None:
        parsed = ParsedMain(service.main, ())
        daemon = runner.Daemon(service, service.journal, lambda: parsed, lambda _: None)
        await daemon.start()
        nic = nic_of(service)
        nic.bug = ZeroDivisionError("a bug")
        await holds(lambda: caplog.text.count("writing the counters") > 1)
        assert not stats.exists()
        nic.bug = None
        await holds(stats.exists)
        await daemon.stop()

    asyncio.run(life())


def test_what_was_done_is_not_answered_as_failed_for_another_vfs_sake(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VF is left open for a bad file; once that is gone it has to close, and its NIC refuses."""
    add(service, "vm0", 0)
    (service.files.folder / "vm0.json").write_text("{")
    nic = nic_of(service)
    again = restarted(service, monkeypatch)
    again.start()
    [managed] = again.nics.values()
    assert set(managed.kept) == {0}
    nic.refuses = "not today"
    assert again.delete("vm0") is None
    assert files(again) == set()
    assert any("not today" in e.text for e in again.journal.since(0) if e.kind == "failed")
    assert (managed.condition, set(managed.unmet)) == ("drifted", {0})
    nic.refuses = ""
    again.converge(managed)
    assert nic.rules[0] is None
    again.stop()


def test_a_request_is_decided_on_what_its_batch_has_freed(service: Service) -> None:
    add(service, "vm0", 0)
    add(service, "vm1", 1)
    nic = nic_of(service)
    [managed] = service.nics.values()
    mac = "02:00:00:00:00:77"
    asks = [Request(vfid, RequestKind.DEFAULT_MAC, mac=mac) for vfid in (1, 0)]
    nic.told.append(Event(EventKind.REQUEST, 1, request=asks[0]))
    handle(service, managed)
    assert nic.grants[1].default_mac == mac
    nic.told += [Event(EventKind.GUEST_GONE, 1), Event(EventKind.REQUEST, 0, request=asks[1])]
    handle(service, managed)
    assert nic.grants[0].default_mac == mac
    assert nic.grants[1].default_mac is None


def test_a_guest_that_asks_without_end_fills_neither_the_log_nor_the_events(
    service: Service,
) -> None:
    now = 0.0
    service.flood = Flood(clock=lambda: now)
    add(service, "noisy", 0)
    add(service, "quiet", 1)
    [managed] = service.nics.values()
    nic = nic_of(service)

    def ask(vfid: int, count: int) -> None:
        asked = (Request(vfid, RequestKind.MTU, mtu=9000 + n % 2) for n in range(count))
        nic.told += [Event(EventKind.REQUEST, vfid, request=request) for request in asked]
        handle(service, managed)

    def told(name: str) -> list[Happening]:
        return [e for e in service.journal.since(0) if (e.kind, e.name) == ("refused", name)]

    ask(0, BURST + 5000)
    ask(1, 3)
    assert (len(told("noisy")), len(told("quiet"))) == (BURST, 3)
    assert nic.answered == BURST + 5003, "all are decided all the same"
    now += EVERY
    ask(0, 2)
    assert len(told("noisy")) == BURST + 1
    assert told("noisy")[-1].data["untold"] == 5000
    assert "5000 more" in told("noisy")[-1].text


def test_a_guest_that_resets_its_vf_without_end_fills_neither_of_them(service: Service) -> None:
    now = 0.0
    service.flood = Flood(clock=lambda: now)
    add(service, "noisy", 0)
    [managed] = service.nics.values()
    nic = nic_of(service)
    for _ in range(BURST + 50):
        nic.told.append(Event(EventKind.VF_RESET, 0))
        handle(service, managed)
    told = [e for e in service.journal.since(0) if e.kind == "vf-reset"]
    assert len(told) == BURST
    now += EVERY
    nic.told += [Event(EventKind.VF_RESET, 0), Event(EventKind.GUEST_COME, 0)]
    handle(service, managed)
    kinds = [(e.kind, e.data.get("untold")) for e in service.journal.since(told[-1].seq)]
    assert ("vf-reset", 50) in kinds
    assert ("guest-come", None) in kinds


def test_a_pf_is_locked_under_its_address_as_soon_as_that_is_known(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A netdev's name says nothing of the device while its driver is away."""
    [managed] = service.nics.values()
    managed.close()
    address = f"0000:{managed.id}"
    nic = PlainNic(managed.pf)
    nic.address = address

    def absent(_: PfPolicy) -> PlainNic:
        raise NicError("no driver")

    monkeypatch.setattr("vfd.daemon.managed.open_nic", absent)
    tried_again(service)
    assert managed.nic is None
    with pytest.raises(InUseError):
        lock_nic(managed.id, "another")
    monkeypatch.setattr("vfd.daemon.managed.open_nic", lambda _: nic)
    taken = lock_nic(address, "another")
    tried_again(service)
    assert managed.nic is None
    assert "in use by another daemon (another)" in managed.detail
    taken.close()
    nic.reopen()
    tried_again(service)
    assert managed.nic is nic
    with pytest.raises(InUseError):
        lock_nic(address, "another")
    lock_nic(managed.id, "another").close()
    (LOCKS / f"{address}.lock").unlink()


def test_a_vf_of_a_pf_that_can_not_be_opened_is_deleted_by_its_name(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd(pciids=[{"id": "0000:ff:1f.7", "backend": "kernel"}])
    vfd.put_file("a-file", {"name": "vm1", "pciid": "0000:ff:1f.7", "vfid": 0, "vlans": [1]})
    vfd.put_file("other", {"pciid": "0000:ff:1f.7", "vfid": 1, "vlans": [1]})
    vfd.start()
    assert len(vfd.get("/v1/health")["bad_files"]) == 2
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 200
    assert vfd.ask("DELETE", "/v1/vfs/other")[0] == 200
    assert vfd.ask("DELETE", "/v1/vfs/vm1")[0] == 404
    assert list(vfd.config_dir.iterdir()) == []
    vfd.main["pciids"] = []  # nothing for clean_up to remove


def test_a_file_that_can_not_be_put_in_place_undoes_the_change_at_the_nic(vfd: Vfd) -> None:
    vfd.add("vm1", vfd.vf(0))
    (vfd.config_dir / "vm1.json").unlink()
    (vfd.config_dir / "vm1.json").mkdir()
    status, error = vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(0, vlans=[7])})
    assert (status, error["type"]) == (503, "storage-failed")
    assert "It was undone" in error["detail"]
    assert vfd.row(0)["extended"]["vlans"] == [100]
    assert [p.name for p in vfd.config_dir.iterdir()] == ["vm1.json"]


def test_a_change_that_somebody_tears_away_is_undone_and_said(vfd: Vfd) -> None:
    """Another program detaches the VEB's program while changes are made and read back."""
    vfd.add("vm1", vfd.vf(0))
    tc = ["tc", "-n", f"vfd-{vfd.pf}"]
    qdiscs = subprocess.run([*tc, "qdisc"], check=True, capture_output=True, text=True).stdout
    block = next(
        line.split("ingress_block ")[1].split()[0]
        for line in qdiscs.splitlines()
        if "ingress_block" in line
    )
    stop = threading.Event()

    def tear() -> None:
        while not stop.is_set():
            subprocess.run([*tc, "filter", "del", "block", block], capture_output=True)

    vandal = threading.Thread(target=tear)
    vandal.start()
    said = ""
    last = [100]
    try:
        end = time.monotonic() + 20
        number = 0
        while not said and time.monotonic() < end:
            number += 1
            vlans = [number % 4000 + 1]
            status, answer = vfd.ask("PUT", "/v1/vfs/vm1", {"config": vfd.vf(0, vlans=vlans)})
            if status == 200:
                last = vlans
            else:
                assert status == 503, answer
                said = answer["detail"]
    finally:
        stop.set()
        vandal.join()
    assert "undone" in said
    assert json.loads((vfd.config_dir / "vm1.json").read_text())["vlans"] == last


def test_a_default_is_not_worth_disturbing_guests_but_what_is_stated_is(service: Service) -> None:
    [managed] = service.nics.values()
    nic = nic_of(service)
    nic.pf = nic.pf.model_copy(update={"enable_loopback": True, "mtu": 9000})  # as it was found
    nic.held = True
    service.converge(managed)
    assert nic.pf.enable_loopback
    assert nic.pf.mtu == 1500
    assert managed.condition == "ok"
    warning = next(text for text in pf(service, managed).warnings if "enable_loopback" in text)
    assert "guests" in warning
    nic.held = False
    service.converge(managed)
    assert not nic.pf.enable_loopback
    assert pf(service, managed).warnings == []
    nic.pf = nic.pf.model_copy(update={"enable_loopback": True})
    nic.held = True
    entry = {"id": managed.id, "enable_loopback": False}
    text = json.dumps({"config_dir": str(service.files.folder), "pciids": [entry]})
    service.reload(parse_main(text, file="vfd.cfg").config)
    assert not nic_of(service).pf.enable_loopback
