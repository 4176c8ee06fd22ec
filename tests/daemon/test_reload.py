"""SIGHUP: all that can follow the files follows them, and the rest is said and tried again."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vfd.api.views import health
from vfd.config.main_file import ParsedMain, parse_main
from vfd.daemon import exclusive, runner
from vfd.daemon.request import Source
from vfd.daemon.service import Service
from vfd.policy.values import PfPolicy

from .harness import Vfd, holds, wait_for
from .plain_nic import add, config, nic_of


def soft(pf: str, vfs: int = 2) -> dict[str, object]:
    return {"id": pf, "backend": "soft", "vfs": vfs}


def states(vfd: Vfd) -> dict[str, str]:
    return {pf["id"]: pf["state"] for pf in vfd.get("/v1/health")["pfs"]}


def test_a_nic_that_another_daemon_has_is_told_at_a_reload_and_all_else_follows(
    make_vfd: Callable[..., Vfd],
) -> None:
    holder, vfd = make_vfd(), make_vfd()
    last = f"{vfd.pf}b"
    vfd.look_every(0.3)
    holder.start()
    vfd.start()
    vfd.main["pciids"] = [soft(vfd.pf), soft(holder.pf), soft(last)]
    vfd.put_file("comes", {"pciid": last, "vfid": 1, "vlans": [7]})
    vfd.write_main()
    vfd.reload()
    assert states(vfd) == {vfd.pf: "ok", holder.pf: "failed", last: "ok"}
    assert vfd.get("/v1/vfs/comes")["state"] == "ok"
    [told] = vfd.events("failed")
    assert f"NIC {holder.pf} is in use by another daemon" in told["text"]
    holder.stop()
    wait_for(lambda: states(vfd)[holder.pf] == "ok")
    assert len(vfd.events("failed")) == 1, "told once, not at every attempt"


def test_what_only_a_restart_can_change_is_said(vfd: Vfd) -> None:
    vfd.main.update(pid_fname=str(vfd.folder / "other"), socket=str(vfd.folder / "s2"))
    vfd.write_main()
    vfd.reload()
    told = [event["text"] for event in vfd.events("warning")]
    assert [text.split(" = ")[0] for text in told] == ["socket", "pid_fname"]
    assert all("until the daemon is restarted" in text for text in told)


def test_warnings_about_the_main_file_are_told_at_a_reload_too(vfd: Vfd) -> None:
    vfd.main["fifo"] = "/run/vfd/fifo"
    vfd.write_main()
    vfd.reload()
    [told] = vfd.events("warning")
    assert "fifo" in told["text"]
    assert "replaced by the socket" in told["text"]


def test_a_nic_is_let_go_of_while_its_events_are_handled(service: Service) -> None:
    """Its descriptor's number may be anybody's by the time when they have been."""
    service.stop()
    without = parse_main(
        json.dumps({"config_dir": str(service.files.folder), "pciids": []}), file="vfd.cfg"
    )
    mistakes: list[object] = []

    async def life() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: mistakes.append(context))
        daemon = runner.Daemon(service, service.journal, lambda: without, lambda _: None)
        await daemon.start()
        nic = nic_of(service)
        nic.may_tell.clear()
        nic.telling.clear()
        nic.ring()
        await holds(nic.telling.is_set)
        reloading = asyncio.create_task(daemon.reload())
        await asyncio.sleep(0)  # it has begun
        nic.may_tell.set()
        await reloading
        assert service.nics == {}
        await asyncio.sleep(runner.BREATH)  # ends after the breath that was taken before
        await daemon.stop()

    asyncio.run(life())
    gc.collect()
    assert mistakes == []


def test_whoever_asked_for_a_reload_that_fails_is_told_so(service: Service) -> None:
    """`iplex reload` must not say that all was read again."""

    async def life() -> None:
        daemon = runner.Daemon(service, service.journal, lambda: main, lambda _: None)
        await daemon.start()
        nic_of(service).bug = RuntimeError("a fault of the driver's")
        with pytest.raises(RuntimeError):
            await daemon.reload()
        nic_of(service).bug = None
        assert await daemon.reload() == ()
        await daemon.stop()

    service.stop()
    main = ParsedMain(service.main, ())
    asyncio.run(life())
    assert [e.text for e in service.journal.since(0) if e.kind == "failed"] == [
        "reload: a fault of the driver's"
    ]
    assert len([e for e in service.journal.since(0) if e.kind == "reloaded"]) == 1


def test_health_is_told_while_nics_come_and_go(service: Service) -> None:
    """It is the one answer that doesn't wait for its turn."""
    pf = next(iter(service.nics))
    (service.files.folder / "vm.json").write_text('{"pciid": "elsewhere", "vfid": 0, "vlans": [1]}')
    service.load()
    mains = [
        service.main.model_copy(
            update={"nics": tuple(PfPolicy(id=f"{pf}{n}") for n in range(count))}
        )
        for count in (3, 0)
    ]
    told: list[str] = []
    done = threading.Event()
    failed: list[Exception] = []

    def ask() -> None:
        while not done.is_set():
            try:
                told.append(health(service).status)
            except Exception as error:
                failed.append(error)

    asking = threading.Thread(target=ask)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    asking.start()
    try:
        for number in range(100):
            service.reload(mains[number % 2])
    finally:
        sys.setswitchinterval(interval)
        done.set()
        asking.join()
    service.reload(mains[1])
    for lock in exclusive.LOCKS.glob(f"{pf}?.lock"):
        lock.unlink()
    assert failed == []
    assert told


def test_a_bad_main_file_is_told_until_a_good_one_is_read(vfd: Vfd) -> None:
    """The next start would fail: whoever reloaded it wants to know before that."""
    vfd.config.write_text('{"pciids": [')
    assert vfd.process is not None
    vfd.process.send_signal(signal.SIGHUP)
    wait_for(lambda: vfd.get("/v1/health")["status"] == "degraded")
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert bad["file"] == str(vfd.config)
    assert "not JSON" in bad["problems"][0]["rule"]
    vfd.write_main()
    vfd.reload()
    assert vfd.get("/v1/health")["status"] == "ok"


def test_a_config_dir_that_is_gone_is_told_and_no_request_puts_an_empty_one_in_its_place(
    vfd: Vfd,
) -> None:
    """With an empty one, the next reload would close every VF."""
    vfd.add("vm1", vfd.vf(0))
    aside = vfd.config_dir.with_name("aside")
    vfd.config_dir.rename(aside)
    vfd.reload()
    [bad] = vfd.get("/v1/health")["bad_files"]
    assert bad["file"] == str(vfd.config_dir)
    for method, path in (("POST", "/v1/plan"), ("POST", "/v1/vfs"), ("PUT", "/v1/vfs/vm1")):
        status, told = vfd.ask(method, path, {"name": "vm1", "config": vfd.vf(0, vlans=[7])})
        assert (status, told["exit"]) == (503, 5)
        assert f"{vfd.config_dir} can't be written" in told["detail"]
    assert not vfd.config_dir.exists()
    vfd.reload()
    assert vfd.row(0)["extended"]["vlans"] == [100]
    aside.rename(vfd.config_dir)
    vfd.reload()
    assert vfd.get("/v1/health")["status"] == "ok"
    assert vfd.row(0)["name"] == "vm1"


def test_a_bad_file_stays_told_when_another_of_its_fields_is_changed(service: Service) -> None:
    add(service, "vm0", 0)
    add(service, "vm1", 1)
    [managed] = service.nics.values()
    path = service.files.folder / "vm0.json"
    good = path.read_text()
    for bad in ({"vlans": [9999]}, {"vlans": [100], "vm_mac": "02:00:00:00:00:01"}):
        other = {"vm_mac": "02:00:00:00:00:01"} if "vm_mac" in bad else {}
        service.update("vm1", Source(config=config(service, 1, **other)), 0, 0)
        path.write_text(json.dumps({**json.loads(good), **bad}))
        service.load()
        told = service.bad["vm0.json"].problems
        service.mirror(managed.id, 0, "in", 1)
        assert service.bad["vm0.json"].problems == told
    path.write_text(good)
    service.mirror(managed.id, 0, "out", 1)
    assert not service.bad


def test_what_is_asked_while_files_are_read_is_not_undone_by_what_was_read(
    service: Service,
) -> None:
    """Files are read beside the thread that serves requests, and followed afterwards."""
    for vfid in range(3):
        add(service, f"vm{vfid}", vfid)
    reading = service.files.read_all()
    service.update("vm0", Source(config=config(service, 0, vlans=[7])), 0, 0)
    service.delete("vm1")
    add(service, "vm3", 3)
    service.load(reading)
    rules = nic_of(service).rules
    assert {v: one and one.vlans for v, one in rules.items()} == {
        0: (7,),
        1: None,
        2: (102,),
        3: (103,),
    }
    assert not service.bad


def test_a_number_of_vfs_that_is_set_is_no_longer_told_as_not_taken_over(vfd: Vfd) -> None:
    def told() -> set[str]:
        bad = vfd.get("/v1/health")["bad_files"]
        return {problem["field"] for one in bad for problem in one["problems"]}

    def read(**fields: object) -> None:
        vfd.main["pciids"][0].update(fields)
        vfd.write_main()
        vfd.reload()

    vfd.add("last", vfd.vf(3, mtu=1500))
    read(vfs=2)
    assert told() == {"pciids[0].vfs"}
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 5})[0] == 200
    assert told() == set()
    read(vfs=2, mtu=1400)
    assert told() == {"pciids[0]"}
    assert vfd.ask("PATCH", f"/v1/pfs/{vfd.pf}", {"vfs": 5})[0] == 200
    assert told() == {"pciids[0]"}, "its mtu still isn't"
    vfd.reload()
    assert told() == {"pciids[0].mtu"}


def test_a_file_that_is_refused_owns_nothing_that_another_file_states(vfd: Vfd) -> None:
    """One that names another's VF, and there a third one's MAC, would close the third."""
    mac = "02:00:00:00:01:00"
    vfd.put_file("a", {"pciid": vfd.pf, "vfid": 0, "vlans": [7]})
    vfd.put_file("b", {"pciid": vfd.pf, "vfid": 0, "vlans": [8], "vm_mac": mac})
    vfd.put_file("c", {"pciid": vfd.pf, "vfid": 1, "vlans": [9], "vm_mac": mac})
    vfd.reload()
    assert vfd.get("/v1/vfs/c")["state"] == "ok"
    [refused] = vfd.get("/v1/health")["bad_files"]
    assert refused["file"] == "b.json"
    assert refused["problems"][0]["field"] == "vfid"
    vfd.stop()
    vfd.start()
    assert vfd.get("/v1/vfs/c")["state"] == "ok", "nor at a start"


def test_a_pf_that_is_not_as_asked_is_told_in_the_answer_to_a_reload(vfd: Vfd) -> None:
    vfd.main["pciids"] = [soft(vfd.pf) | {"uplink": "lo"}]
    vfd.write_main()
    status, told = vfd.ask("POST", "/v1/reload", {})
    assert status == 200
    [pf] = told["pfs"]
    assert pf["state"] == "drifted"
    assert "uplink lo" in pf["detail"]
    shown = subprocess.run(
        [Path(sys.executable).with_name("iplex"), "--socket", vfd.socket, "reload"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "uplink lo" in shown.stdout
