"""A NIC that is lost, fails or disobeys: what was asked is undone and said, and files can go."""

from __future__ import annotations

import json
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfd.api.views import pf
from vfd.config.main_file import parse_main
from vfd.daemon.exclusive import LOCKS
from vfd.daemon.files import Files
from vfd.daemon.flood import BURST, EVERY, Flood
from vfd.daemon.journal import Happening, Journal
from vfd.daemon.service import Service, Source
from vfd.daemon.watch import handle
from vfd.daemon.zero import Zero
from vfd.nic.protocol import Event, EventKind, NicError
from vfd.policy.requests import Request, RequestKind

from .harness import Vfd
from .plain_nic import PlainNic


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The daemon's service in this process, with a plain NIC for its PF."""
    pf = f"t{secrets.token_hex(3)}"
    config_dir = tmp_path / "vfs"
    config_dir.mkdir()
    main_file = tmp_path / "vfd.cfg"
    main_file.write_text(json.dumps({"config_dir": str(config_dir), "pciids": [pf]}))
    main = parse_main(main_file.read_text(), file=str(main_file)).config
    monkeypatch.setattr("vfd.daemon.managed.open_nic", PlainNic)
    made = Service(Files(main_file, main), main, Journal(), Zero(tmp_path / "zero"), "test")
    made.start()
    yield made
    made.stop()
    (LOCKS / f"{pf}.lock").unlink()


def nic_of(service: Service) -> PlainNic:
    [managed] = service.nics.values()
    assert isinstance(managed.nic, PlainNic)
    return managed.nic


def add(service: Service, name: str, vfid: int) -> None:
    config = {"pciid": next(iter(service.nics)), "vfid": vfid, "vlans": [100 + vfid]}
    service.add(Source(name=name, config=config), 0, 0)


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


def test_a_pf_that_is_lost_at_this_very_moment_lets_its_vf_be_deleted(service: Service) -> None:
    add(service, "goes", 0)
    nic_of(service).gone = True
    assert service.delete("goes") is not None
    assert files(service) == set()
    [managed] = service.nics.values()
    assert managed.condition == "lost"


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


def test_a_guest_that_asks_without_end_fills_neither_the_log_nor_the_events(
    service: Service,
) -> None:
    now = 0.0
    service.flood = Flood(lambda: now)
    add(service, "noisy", 0)
    add(service, "quiet", 1)
    [managed] = service.nics.values()
    nic = nic_of(service)

    def ask(vfid: int, count: int) -> None:
        request = Request(vfid, RequestKind.MTU, mtu=9999)
        nic.told += [Event(EventKind.REQUEST, vfid, request=request)] * count
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
