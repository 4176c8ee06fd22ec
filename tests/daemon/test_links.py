"""A link that changes its speed: guarantees are scaled, requests go on, nobody is cut off."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from vfd.daemon.failures import RefusedError
from vfd.daemon.managed import Managed
from vfd.daemon.request import Source
from vfd.daemon.service import Service
from vfd.daemon.watch import handle
from vfd.nic.protocol import Capability, Event, EventKind, Support
from vfd.policy.requests import Request, RequestKind

from .harness import Vfd, wait_for
from .plain_nic import add, config, nic_of, restarted, tried_again


def guaranteed(service: Service) -> list[int]:
    """What the NIC guarantees each open VF, in Mbit/s."""
    return [r.min_rate.on(0) // 10**6 for r in nic_of(service).rules.values() if r is not None]


def four_of_600(service: Service) -> Managed:
    for vfid in range(4):
        add(service, f"vm{vfid}", vfid, min_rate="600Mbps")
    [managed] = service.nics.values()
    return managed


def slower(service: Service, managed: Managed) -> None:
    nic_of(service).link_is(10**9)
    handle(service, managed)


def update(service: Service, vfid: int, **fields: object) -> None:
    service.update(f"vm{vfid}", Source(config=config(service, vfid, **fields)), 0, 0)


def test_a_link_that_becomes_slower_scales_guarantees_and_says_so(service: Service) -> None:
    managed = four_of_600(service)
    nic = nic_of(service)
    request = Request(0, RequestKind.MTU, mtu=1400)
    nic.told.append(Event(EventKind.REQUEST, 0, request=request))
    slower(service, managed)
    assert guaranteed(service) == [250, 250, 250, 250]
    assert nic.answered == 1
    assert managed.condition == "ok"
    assert managed.aim is not None
    assert managed.aim.scale == pytest.approx(1 / 2.4)
    [warning] = managed.aim.warnings[None]
    assert "2.4 times the link of 1Gbps" in warning
    assert [e.level for e in service.journal.since(0) if e.text == warning] == ["warning"]
    nic.link_is(10**10)
    handle(service, managed)
    assert guaranteed(service) == [600, 600, 600, 600]
    assert managed.aim.warnings[None] == ()


def test_what_does_not_make_a_slow_link_worse_is_done(service: Service) -> None:
    managed = four_of_600(service)
    slower(service, managed)
    service.mirror(managed.id, 0, "in", 1)
    update(service, 1, min_rate="600Mbps", vlans=[7])
    update(service, 2, min_rate="300Mbps")
    service.delete("vm3")
    assert guaranteed(service) == [400, 400, 200]
    with pytest.raises(RefusedError, match=r"vm2.*min_rate"):
        update(service, 2, min_rate="400Mbps")
    with pytest.raises(RefusedError, match=r"vm3.*min_rate"):
        add(service, "vm3", 3, min_rate="1Mbps")
    add(service, "vm3", 3)
    assert guaranteed(service) == [400, 400, 200, 0]


def test_a_guarantee_is_held_to_a_limit_that_falls_below_it(service: Service) -> None:
    add(service, "vm0", 0, min_rate="600Mbps", rate="50%")
    [managed] = service.nics.values()
    slower(service, managed)
    assert guaranteed(service) == [500]
    assert managed.aim is not None
    assert any("min_rate" in warning for warning in managed.aim.warnings[0])
    update(service, 0, min_rate="600Mbps", rate="50%", vlans=[7])
    with pytest.raises(RefusedError, match="min_rate"):
        update(service, 0, min_rate="600Mbps", rate="40%")


def test_a_link_that_is_down_keeps_its_last_speed(service: Service) -> None:
    managed = four_of_600(service)
    slower(service, managed)
    nic = nic_of(service)
    nic.link_is(None)
    handle(service, managed)
    assert guaranteed(service) == [250, 250, 250, 250]
    service.mirror(managed.id, 0, "in", 1)
    assert guaranteed(service) == [250, 250, 250, 250]
    nic.link_is(10**9)
    handle(service, managed)
    assert guaranteed(service) == [250, 250, 250, 250]


@pytest.mark.parametrize("how", ["overrun", "back", "retry"])
def test_shares_follow_a_speed_whose_event_was_lost(service: Service, how: str) -> None:
    add(service, "vm0", 0, min_rate="25%")
    [managed] = service.nics.values()
    nic = nic_of(service)
    assert guaranteed(service) == [2500]
    nic.speed = 10**9
    if how == "overrun":
        nic.told.append(Event(EventKind.OVERRUN))
    else:
        nic.unreadable = "in a reset"
        nic.told.append(Event(EventKind.BACK if how == "back" else EventKind.DRIFT))
    handle(service, managed)
    if nic.unreadable:
        assert managed.condition == "failed"
        nic.unreadable = ""
        tried_again(service)
    assert guaranteed(service) == [250]
    assert (managed.condition, managed.link_bps()) == ("ok", 10**9)
    looked = nic.looked
    service.converge(managed)
    assert nic.looked == looked + 1


def test_rates_that_can_not_follow_the_link_stay_and_are_told_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(service, "vm0", 0, min_rate="25%")
    [managed] = service.nics.values()
    lacking = {"min_rate": Capability(Support.ABSENT, reason="not at this speed")}
    monkeypatch.setattr(nic_of(service), "shortfalls", lambda _: lacking)
    slower(service, managed)
    slower(service, managed)
    service.converge(managed)
    assert guaranteed(service) == [2500]
    told = [e.text for e in service.journal.since(0) if e.kind == "failed"]
    assert len(told) == 1
    assert told[0].startswith("rates stay as they were for the link's last speed: ")


def test_a_restart_on_a_slow_link_cuts_nobody_off(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed = four_of_600(service)
    slower(service, managed)
    late = service.files.folder / "late.json"
    service.delete("vm3")
    late.write_text((service.files.folder / "vm2.json").read_text().replace(": 2,", ": 3,"))
    os.utime(late, (1, 1))
    again = restarted(service, monkeypatch)
    try:
        again.start()
        assert guaranteed(again) == [333, 333, 333]
        assert set(again.bad) == {"late.json"}
    finally:
        again.stop()


def test_shares_follow_the_speed_that_a_reload_gives_a_software_nic(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    [pf] = vfd.main["pciids"]
    pf["link_speed"] = "10Gbps"
    vfd.write_main()
    vfd.start()
    vfd.add("vm0", vfd.vf(0, rate=0.5, min_rate="600Mbps"))
    vfd.add("vm1", vfd.vf(1, min_rate="900Mbps"))
    pf["link_speed"] = "1Gbps"
    vfd.write_main()
    vfd.reload()
    rows = [vfd.row(vfid)["extended"] for vfid in (0, 1)]
    assert rows[0]["rate"] == 500_000_000
    assert [row["min_rate"] for row in rows] == [400_000_000, 600_000_000]
    assert vfd.get("/v1/health")["status"] == "ok"


def test_an_uplink_that_is_not_there_is_named_until_it_is(make_vfd: Callable[..., Vfd]) -> None:
    """A slip of the pen in vfd.cfg looks like a cut cable else."""
    vfd = make_vfd()
    uplink, far = f"{vfd.pf}u", f"{vfd.pf}x"
    vfd.main["pciids"][0]["uplink"] = uplink
    vfd.write_main()
    vfd.start()

    def pf() -> dict[str, Any]:
        found: dict[str, Any] = vfd.get("/v1/show")["rows"][0]
        return found

    assert pf()["link"] == "down"
    [told] = pf()["warnings"]
    assert f"the uplink {uplink} is no netdev of this host" in told
    try:
        ip("link", "add", uplink, "type", "veth", "peer", "name", far)
        ip("link", "set", far, "up")
        wait_for(lambda: pf()["link"] == "up")
        assert pf()["warnings"] == []
        ip("link", "delete", far)
        wait_for(lambda: pf()["link"] == "down")
        assert len(pf()["warnings"]) == 1
    finally:
        subprocess.run(["ip", "link", "delete", far], check=False, stderr=subprocess.DEVNULL)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def test_an_uplink_that_can_be_no_wire_is_told_at_a_start_by_that_reason_alone(
    make_vfd: Callable[..., Vfd],
) -> None:
    vfd = make_vfd()
    vfd.main["pciids"][0]["uplink"] = "lo"
    vfd.write_main()
    vfd.put_file("vm0", vfd.vf(0))
    vfd.start()
    told = [json.dumps(vfd.get(path)) for path in ("/v1/show?extended=true", "/v1/health")]
    for text in (*told, vfd.output()):
        assert "it is no Ethernet device" in text
        assert "no netdev of this host" not in text
        assert "putting everything back" not in text
