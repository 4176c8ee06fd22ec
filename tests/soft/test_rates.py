"""Rates as guests see them: TCP and UDP through the shaper. Short runs, wide margins."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from tests.soft.world import World, frame, ip, world


def addresses(w: World, *vfids: int) -> None:
    for vfid in vfids:
        w.guest(vfid)
        ip("-n", w.guests[vfid], "addr", "add", f"10.77.0.{vfid + 1}/24", "dev", "eth0")
        ip("-n", w.guests[vfid], "link", "set", "lo", "up")
    w.settle()


def iperf(w: World, flows: dict[int, list[str]], receiver: int, seconds: float) -> dict[int, float]:
    """Mbit/s that each sender's flow brings to the receiver, all running at once."""
    there = ["ip", "netns", "exec", w.guests[receiver], "iperf3", "-s", "-1", "-p"]
    servers = [subprocess.Popen([*there, str(5300 + v)], stdout=subprocess.DEVNULL) for v in flows]
    time.sleep(0.4)
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
def test_a_limit_holds_within_a_tenth(protocol: str, limit: str) -> None:
    with world() as w:
        limited = 0 if limit == "rate" else 1
        w.apply(*(w.vf(v, **({limit: "100Mbps"} if v == limited else {})) for v in (0, 1)))
        addresses(w, 0, 1)
        options = [] if protocol == "tcp" else ["-u", "-b", "150M", "-l", "1400"]
        got = iperf(w, {0: options}, 1, 2)[0]
        assert 85 < got < 106, f"{got:.1f} Mbit/s of 100"


@pytest.mark.parametrize(("limit", "direction"), [("rate", "tx"), ("max_rx_rate", "rx")])
def test_what_a_limit_drops_is_counted_and_stays_counted(limit: str, direction: str) -> None:
    with world() as w:
        limited = 0 if limit == "rate" else 1
        w.apply(*(w.vf(v, **({limit: "5Mbps"} if v == limited else {})) for v in (0, 1)))
        w.guest(0)
        w.guest(1)
        w.settle()
        out = w.port(0)
        flood = frame(w.mac(1), w.mac(0), bytes(1400))
        for _ in range(3000):
            out.send(flood)
        dropped = w.nic.counters()[limited]["rate_dropped"]
        assert dropped > 500
        assert w.nic.counters()[limited][f"{direction}_dropped"] >= dropped
        w.apply(w.vf(limited))
        w.reopen()
        assert w.nic.counters()[limited]["rate_dropped"] >= dropped


def test_a_guarantee_holds_against_a_greedy_neighbour() -> None:
    with world(vfs=3, link_speed="200Mbps") as w:
        w.apply(w.vf(0, min_rate="150Mbps"), w.vf(1), w.vf(2))
        addresses(w, 0, 1, 2)
        udp = ["-u", "-b", "300M", "-l", "1400"]
        got = iperf(w, {0: udp, 1: udp}, 2, 2)
        assert got[0] > 135, got
        assert got[0] + got[1] < 215, got


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
