"""Rates as guests see them: TCP and UDP through the shaper. To the bit: test_qdiscs.py."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from tests.soft.world import BROADCAST, Tap, World, frame, ip, world

from vfd.nic.protocol import PF_PORT, EventKind
from vfd.nic.soft import namespace

pytestmark = pytest.mark.measured


def addresses(w: World, *vfids: int) -> None:
    for vfid in vfids:
        w.guest(vfid)
        ip("-n", w.guests[vfid], "addr", "add", f"10.77.0.{vfid + 1}/24", "dev", "eth0")
        ip("-n", w.guests[vfid], "link", "set", "lo", "up")
    w.settle()


def iperf(w: World, flows: dict[int, list[str]], receiver: int, seconds: float) -> dict[int, float]:
    """Mbit/s that each sender's flow brings to the receiver, all running at once."""
    there = ["ip", "netns", "exec", w.guests[receiver], "iperf3", "-s", "-1", "--forceflush", "-p"]
    servers = [
        subprocess.Popen([*there, str(5300 + vfid)], stdout=subprocess.PIPE, text=True)
        for vfid in flows
    ]
    for server in servers:
        assert server.stdout is not None
        assert any("listening" in line for line in server.stdout)
    clients = {}
    for vfid, options in flows.items():
        command = ["ip", "netns", "exec", w.guests[vfid], "iperf3", "-J", "-p", str(5300 + vfid)]
        command += [
            "-c",
            f"10.77.0.{receiver + 1}",
            *(["-t", str(seconds), "-O", "1"] if seconds else []),
            *options,
        ]
        clients[vfid] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    found = {}
    try:
        for vfid, client in clients.items():
            end = json.loads(client.communicate(timeout=20)[0])["end"]
            total = end.get("sum_received") or end["sum"]
            found[vfid] = total["bits_per_second"] / 1e6
    finally:
        for process in (*servers, *clients.values()):
            process.kill()
            process.wait()
    return found


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("limit", ["rate", "max_rx_rate"])
def test_a_limit_holds_within_a_few_percent(protocol: str, limit: str) -> None:
    with world() as w:
        limited = 0 if limit == "rate" else 1
        w.apply(*(w.vf(v, **({limit: "100Mbps"} if v == limited else {})) for v in (0, 1)))
        addresses(w, 0, 1)
        options = [] if protocol == "tcp" else ["-u", "-b", "150M", "-l", "1400"]
        got = iperf(w, {0: options}, 1, 2)[0]
        # iperf counts payload: 1448 of 1514 bytes of a TCP segment, 1400 of 1442 of a datagram
        expected = 100 * 1448 / 1514 if protocol == "tcp" else 100 * 1400 / 1442
        assert got == pytest.approx(expected, rel=0.04), f"{got:.1f} Mbit/s, not {expected:.1f}"


LIMITS = pytest.mark.parametrize(("limit", "direction"), [("rate", "tx"), ("max_rx_rate", "rx")])


def flooded(w: World, limit: str) -> int:
    """Sends VF 1 more from VF 0 than the limit lets pass; returns the limited VF."""
    limited = 0 if limit == "rate" else 1
    w.apply(*(w.vf(v, **({limit: "5Mbps"} if v == limited else {})) for v in (0, 1)))
    w.guest(0)
    w.guest(1)
    w.settle()
    with namespace.inside(w.guests[0]):
        out = Tap("eth0")
    flood = frame(w.mac(1), w.mac(0), bytes(1400))
    for _ in range(3000):
        out.send(flood)
    out.close()
    return limited


@LIMITS
def test_what_a_limit_drops_is_counted_and_stays_counted(limit: str, direction: str) -> None:
    with world() as w:
        limited = flooded(w, limit)
        dropped = w.nic.counters()[limited]["rate_dropped"]
        assert dropped > 500
        assert w.nic.counters()[limited][f"{direction}_dropped"] >= dropped
        w.apply(w.vf(limited))
        w.reopen()
        assert w.nic.counters()[limited]["rate_dropped"] >= dropped


@LIMITS
def test_what_a_limit_dropped_outlives_the_guest_the_vf_and_the_daemon(
    limit: str, direction: str
) -> None:
    with world() as w:
        limited = flooded(w, limit)
        names = ("rate_dropped", f"{direction}_dropped")

        def told() -> list[int]:
            counters = w.nic.counters()
            return [
                *(counters[limited][n] for n in names if limited in counters),
                counters[PF_PORT]["rate_dropped"],
            ]

        before = told()
        namespace.remove(w.guests[limited])
        # what waits in a queue holds the namespace for a while
        w.until(lambda event: event.kind is EventKind.VF_RESET, seconds=10)
        assert all(now >= was for now, was in zip(told(), before, strict=True))
        w.reopen()
        assert all(now >= was for now, was in zip(told(), before, strict=True))
        before = told()
        vfs = dict(w.vfs)
        w.apply(pf=w.pf.model_copy(update={"vfs": 0}), without=(0, 1))
        assert w.nic.counters()[PF_PORT]["rate_dropped"] >= before[-1]
        w.apply(*vfs.values(), pf=w.pf.model_copy(update={"vfs": 2}))
        assert all(now >= was for now, was in zip(told(), before, strict=True))


def test_a_limit_that_somebody_takes_away_leaves_its_drops_counted() -> None:
    with world() as w:
        flooded(w, "rate")
        dropped = w.nic.counters()[0]["rate_dropped"]
        ip("netns", "exec", f"vfd-{w.id}", "tc", "qdisc", "del", "dev", "shaper0", "root")
        assert w.nic.counters()[0]["rate_dropped"] >= dropped > 500
        w.settle()
        w.apply(w.vf(0, rate="6Mbps"))
        assert w.nic.counters()[0]["rate_dropped"] >= dropped


def test_before_an_rx_limit_what_is_given_and_what_is_dropped_is_all_that_came() -> None:
    with world(vfs=3) as w:
        mirrored = w.vf(0, mirror={"target": 1, "direction": "out"})
        w.apply(mirrored, w.vf(1, max_rx_rate="5Mbps"), w.vf(2))
        for vfid in range(3):
            w.guest(vfid, silent=True)
        w.settle()
        out, port = w.port(0), w.port(1)
        macs = (w.mac(1), BROADCAST, w.mac(2))
        before = w.nic.counters()[1]
        for n in range(900):
            out.send(frame(macs[n % 3], w.mac(0), bytes(1400)))
        heard = len(port.heard(0.5))
        after = w.nic.counters()[1]
        moved = {name: after[name] - before[name] for name in after}
        assert moved["rx_packets"] == heard
        assert moved["rx_dropped"] == moved["rate_dropped"] > 300
        # 300 to it, 300 to all, and copies of all 900
        assert heard + moved["rx_dropped"] == 1500


def test_with_classes_a_rate_holds_over_all_of_them() -> None:
    with world(enable_qos=True, link_speed="1Gbps") as w:
        w.apply(w.vf(0, vlans=[5], rate="20Mbps"), w.vf(1, vlans=[5]))
        w.guest(0)
        w.guest(1)
        w.settle()
        out, port = w.port(0), w.port(1)
        tags = [frame(w.mac(1), w.mac(0), bytes(1400), vid=pcp << 13 | 5) for pcp in range(8)]
        heard: list[bytes] = []
        sent = 0
        start = time.monotonic()
        while time.monotonic() < start + 2:
            for tagged in tags:
                out.send(tagged)
                sent += len(tagged)
            heard += port.heard(0.001, count=8)
        seconds = time.monotonic() - start
        took = sum(len(one) for one in heard) * 8 / 1e6
        # 70 kB at once; what each class's queue may send at once beyond is repaid within the time
        assert took == pytest.approx(20 * seconds + 0.56, rel=0.04), f"{took:.1f} Mbit"
        assert len({one[14] >> 5 for one in heard}) == 8, "each class got through"
        assert sent * 8 / 1e6 > 1.5 * took, "it was offered more"


def test_a_guarantee_holds_against_a_greedy_neighbour() -> None:
    with world(vfs=3, link_speed="60Mbps") as w:
        w.apply(w.vf(0, min_rate="45Mbps"), w.vf(1), w.vf(2))
        addresses(w, 0, 1, 2)
        udp = ["-u", "-b", "90M", "-l", "1400"]
        got = iperf(w, {0: udp, 1: udp}, 2, 2)
        # the rest goes by weight: 45, and 7.5 for each of the others; in rounds of 0.05 s and more
        payload = 1400 / 1442
        assert got[0] == pytest.approx((45 + 15 * 6 / 7) * payload, rel=0.05), got
        assert got[0] + got[1] == pytest.approx(60 * payload, rel=0.04), got


def test_shares_of_a_class_hold_between_tcp_and_udp() -> None:
    with world(vfs=3, link_speed="200Mbps", enable_qos=True) as w:
        w.apply(
            w.vf(0, queues=[{"priority": 0, "share": 60}]),
            w.vf(1, queues=[{"priority": 0, "share": 20}]),
            w.vf(2),
        )
        addresses(w, 0, 1, 2)
        got = iperf(w, {0: [], 1: ["-u", "-b", "300M", "-l", "1400"]}, 2, 3)
        # buffers of 64 KiB on the one side, datagrams on the other
        assert got[0] / (got[0] + got[1]) == pytest.approx(0.75, abs=0.03), got


def test_a_vf_that_gets_and_loses_a_guarantee_costs_the_others_no_frame() -> None:
    with world(vfs=3, enable_qos=True) as w:
        w.apply(w.vf(0), w.vf(1), w.vf(2))
        for vfid in (1, 2):
            w.guest(vfid, silent=True)
        w.settle()
        out, port = w.port(1), w.port(2)
        heard = 0
        for turn in range(8):
            for n in range(60):
                out.send(frame(w.mac(2), w.mac(1), bytes(1400)))
                if n == 30:
                    w.apply(w.vf(0, min_rate="5Gbps" if turn % 2 else 0))
            heard += len(port.heard(0.05))
        assert heard == 8 * 60


def test_tcp_is_counted_in_packets_on_the_wire() -> None:
    with world() as w:
        w.apply(w.vf(0), w.vf(1))
        addresses(w, 0, 1)
        before = w.nic.counters()[0]
        iperf(w, {0: ["-n", "20M"]}, 1, 0)
        after = w.nic.counters()[0]
        packets = after["tx_packets"] - before["tx_packets"]
        size = (after["tx_bytes"] - before["tx_bytes"]) / packets
        assert 1000 < size <= 1514, "bytes a packet: not the size of an offload buffer"
