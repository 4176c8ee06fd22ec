"""Whatever changes elsewhere on the NIC, an untouched VF loses no frame and gets no wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.life.host import TENANTS, VFS, WIRE, Host, ip, wait_for
from tests.packet.frames import WORLD, c, frame, from_vf, mac

UNTOUCHED = (*TENANTS, None)


@contextmanager
def untouched(host: Host, *, wire_was_down: bool = False) -> Iterator[None]:
    """The block happens under traffic, of which nothing is lost, nothing wrongly passed, and in
    which no counter of an untouched VF goes backwards."""
    traffic = host.traffic()
    before = host.counters()
    with traffic.running():
        yield
    after = host.counters()
    assert traffic.sent > 100
    assert traffic.faults(wire_was_down=wire_was_down) == []
    for vfid in UNTOUCHED:
        backwards = [n for n, value in before[vfid].items() if after[vfid][n] < value]
        assert backwards == [], f"VF {vfid}: {backwards} went backwards"
    # the tell-tales were sent, and refused for the right reason
    assert after[0]["spoofed"] > before[0]["spoofed"]
    assert after[2]["spoofed"] > before[2]["spoofed"]
    assert after[1]["dropped_vlan"] > before[1]["dropped_vlan"]


def test_others_are_added_updated_and_deleted(host: Host) -> None:
    with untouched(host):
        for round in range(5):
            for vfid in (3, 4):
                body = {"name": f"other{vfid}", "config": host.vf(vfid)}
                host.daemon.must("POST", "/v1/vfs", body)
            for vlans in ([100], [100, 200], [300 + round]):
                body = {"config": host.vf(3, vlans=vlans, allow_un_ucast=True)}
                host.daemon.must("PUT", host.daemon.vf("other3"), body)
            for vfid in (3, 4):
                host.daemon.must("DELETE", host.daemon.vf(f"other{vfid}"))
    assert host.converged() == []


def test_what_is_refused_changes_nothing(host: Host) -> None:
    with untouched(host):
        for config in (
            host.vf(3, vlans=[5000]),
            host.vf(3, vm_mac=mac(0)),
            host.vf(0),
            host.vf(3, vlans=[7], min_rate="11Gbps"),
        ):
            status, answer = host.daemon.ask(
                "POST", "/v1/vfs", {"name": "refused", "config": config}
            )
            assert status in (409, 422), answer
    assert host.converged() == []


def test_an_untouched_vf_is_mirrored_on_and_off(host: Host) -> None:
    host.daemon.must("POST", "/v1/vfs", {"name": "probe", "config": host.vf(3, vlans=[999])})
    with untouched(host):
        for direction in ("in", "all", "out", "off", "all", "off"):
            body = {"direction": direction, "target": None if direction == "off" else 3}
            host.daemon.must("PUT", f"/v1/pfs/{host.id}/vfs/0/mirror", body)
    host.daemon.must("DELETE", host.daemon.vf("probe"))
    assert host.converged() == []


def test_the_number_of_vfs_changes(host: Host) -> None:
    with untouched(host):
        for number in (12, 5, VFS):
            host.daemon.must("PATCH", f"/v1/pfs/{host.id}", {"vfs": number, "force": True})
            wait_for(
                lambda number=number: host.is_there(number - 1),  # type: ignore[misc]
                f"VF {number - 1}",
            )
            assert not host.is_there(number)
    assert host.converged() == []


def test_what_a_vfs_limits_dropped_stays_counted_when_its_guest_is_gone(host: Host) -> None:
    limits = {"rate": "5Mbps", "max_rx_rate": "5Mbps"}
    config = host.vf(3, vlans=[100], strip_ctag=True, link_status="on", **limits)
    host.daemon.must("POST", "/v1/vfs", {"name": "limited", "config": config})
    with untouched(host):
        last = host.counters()
        for _ in range(2):
            host.seat(3)
            enough = last[3]["rate_dropped"] + 500
            wait_for(lambda more=enough: flooded(host) > more, "a flood of VF 3")  # type: ignore[misc]
            host.ports.pop(3).close()
            now = host.counters()
            assert now[3]["tx_dropped"] > last[3]["tx_dropped"]
            assert now[3]["rx_dropped"] > last[3]["rx_dropped"]
            assert_forward(last, now)
            last = now
            host.unseat(3)
            wait_for(lambda: host.is_there(3), "VF 3 back in the root namespace", 15)
            now = host.counters()
            assert_forward(last, now)
            last = now
        host.daemon.kill()
        host.daemon.start()
        assert_forward(last, host.counters())
        host.daemon.must("PATCH", f"/v1/pfs/{host.id}", {"vfs": 3, "force": True})
        host.daemon.must("PATCH", f"/v1/pfs/{host.id}", {"vfs": VFS, "force": True})
        assert_forward(last, host.counters())
    host.daemon.must("DELETE", host.daemon.vf("limited"))
    assert host.converged() == []


def flooded(host: Host) -> int:
    """How many frames VF 3's limits have dropped, after more than its queues have room for, both
    ways. Of a flood from the wire a busy host loses a part before the NIC."""
    sent = from_vf(3, WORLD, payload=1400)
    given = frame(mac(3), WORLD, c(100), payload=1400)
    for port, one in ((3, sent), (WIRE, given)):
        raw = one.with_marker(b"flooding", {})
        for _ in range(1500):
            host.ports[port].send(raw)
    return host.counters()[3]["rate_dropped"]


def assert_forward(
    before: dict[int | None, dict[str, int]], now: dict[int | None, dict[str, int]]
) -> None:
    for vfid in (3, None):
        backwards = [n for n, value in before[vfid].items() if now[vfid][n] < value]
        assert backwards == [], f"VF {vfid}: {backwards} went backwards"


def test_another_guest_is_gone_with_its_namespace_and_its_vf_comes_back(host: Host) -> None:
    body = {"name": "gone", "config": host.vf(3, vlans=[100], strip_ctag=True)}
    host.daemon.must("POST", "/v1/vfs", body)
    with untouched(host):
        for _ in range(3):
            host.seat(3, listen=False)
            assert not host.is_there(3)
            host.unseat(3)
            wait_for(lambda: host.is_there(3), "VF 3 back in the root namespace")
    host.daemon.must("DELETE", host.daemon.vf("gone"))
    assert host.converged() == []


def test_the_wire_goes_down_and_comes_up_and_vfs_go_on_talking(host: Host) -> None:
    def link() -> bool:
        return bool(host.daemon.must("GET", f"/v1/pfs/{host.id}")["link_up"])

    with untouched(host, wire_was_down=True):
        for state in ("down", "up", "down", "up"):
            ip("-n", host.wire_ns, "link", "set", host.wire_name, state)
            wait_for(lambda state=state: link() == (state == "up"), f"the wire {state}")  # type: ignore[misc]
    wait_for(host.ports[WIRE].is_running, "the wire's far end running")
    with untouched(host):
        pass  # and now the wire carries everything again


def test_the_daemon_is_stopped_and_started(host: Host) -> None:
    with untouched(host):
        for _ in range(3):
            assert host.daemon.stop() == 0
            host.daemon.start()
    assert host.converged() == []


def test_the_daemon_reads_its_configuration_again(host: Host) -> None:
    assert host.daemon.process
    with untouched(host):
        host.daemon.write("late", host.vf(3, vlans=[42]))
        host.daemon.process.send_signal(1)
        wait_for(lambda: "late" in _names(host), "the new file in force after SIGHUP")
        (host.daemon.config_dir / "late.json").unlink()
        host.daemon.process.send_signal(1)
        wait_for(lambda: "late" not in _names(host), "the VF closed after SIGHUP")
    assert host.converged() == []


def _names(host: Host) -> set[str]:
    return {vf["name"] for vf in host.daemon.must("GET", "/v1/vfs")["vfs"]}
