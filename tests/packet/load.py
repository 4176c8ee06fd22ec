"""Runs the rows of measured.py on a soft bench: offers load, and looks at what arrives."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vfd.nic.protocol import Counters
from vfd.nic.soft import namespace

from .frames import mac, marker_of
from .measured import Bound, Load, Measured, Tcp
from .runner import DRAIN
from .soft_bench import GUEST_MTU, SoftBench

TICK = 0.002
"""Seconds between bursts of a load."""
SETTLE = 0.3
"""Seconds of a load after which its rate is measured: queues are full and bursts are over."""
PAUSE = 0.1
"""Seconds: a storm limit's bucket is full after that, and what a busy host sends later was no storm
meanwhile."""
PORT = 5001
TCP_HEADERS = 14 + 20 + 20
"""Bytes before a segment's payload: Ethernet, IPv4, TCP without options."""


@dataclass(slots=True)
class Arrivals:
    """(port, marker) → what arrived."""

    frames: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    """In all."""
    measured: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    """Bytes while the load ran, without its beginning."""
    seconds: float = 0.0
    """How long that was, by the clock: a busy host takes longer than the row says."""

    sending: dict[bytes, float] = field(default_factory=dict)
    """By marker: how long a load was sent, without the time by which the sender paused for longer
    than ``PAUSE``."""

    def mbps(self, port: int, marker: bytes) -> float:
        return self.measured[port, marker] * 8 / self.seconds / 1e6


def run(bench: SoftBench, row: Measured, *, tcp_reaches: float = 0.9) -> list[str]:
    """Runs the row; returns what lies outside its bounds. ``tcp_reaches``: the part of a rate that
    TCP's payload has at least; its headers take 4.4 %."""
    bench.configure(row.nic)
    before = bench.counters()
    if row.tcp:
        return list(_tcp_faults(bench, row, row.tcp, before, tcp_reaches))
    markers = {_key(load): os.urandom(8) for load in row.loads}
    arrivals = _offer(bench, row, markers)
    after = bench.counters()
    faults: list[str] = []
    for stopped in row.stopped:
        moved = after[stopped.sender][stopped.counter] - before[stopped.sender][stopped.counter]
        arrived = arrivals.frames[stopped.port, markers[stopped.sender, stopped.label]]
        (load,) = [one for one in row.loads if _key(one) == (stopped.sender, stopped.label)]
        if moved + arrived != int(load.pps * row.seconds):
            faults.append(f"{arrived} arrived, and {stopped.counter} moved by {moved}")
    faults += [fault for bound in row.bounds for fault in _outside(bound, markers, arrivals)]
    for counted in row.counted:
        moved = after[counted.port][counted.counter] - before[counted.port][counted.counter]
        if not counted.low <= moved <= counted.high:
            faults.append(
                f"VF {counted.port}: {counted.counter} moved by {moved},"
                f" not by {counted.low} … {counted.high}"
            )
    return faults


def _key(load: Load) -> tuple[int, str]:
    return load.port, load.label


def _outside(
    bound: Bound,
    markers: Mapping[tuple[int, str], bytes],
    arrivals: Arrivals,
) -> Iterator[str]:
    marker = markers[bound.sender, bound.label]
    match bound.unit:
        case "frames":
            got: float = arrivals.frames[bound.port, marker]
        case "frames/s":
            got = (arrivals.frames[bound.port, marker] - bound.burst) / arrivals.sending[marker]
        case _:
            got = arrivals.mbps(bound.port, marker)
    if not bound.low <= got <= bound.high:
        yield (
            f"at {bound.port} of {bound.sender}'s {bound.label or 'load'}: {got:.1f} {bound.unit},"
            f" not {bound.low} … {bound.high}"
        )


def _offer(bench: SoftBench, row: Measured, markers: Mapping[tuple[int, str], bytes]) -> Arrivals:
    """Sends every load at its pace for the row's time, receiving all along."""
    frames = [
        (load, load.frame.with_marker(markers[_key(load)], bench.own_mac)) for load in row.loads
    ]
    sent = [0] * len(frames)
    arrivals = Arrivals()
    start = time.monotonic()
    last = [start] * len(frames)
    lasted = [0.0] * len(frames)

    def send(until: float) -> None:
        for number, (load, raw) in enumerate(frames):
            due = min(int(load.pps * until), int(load.pps * row.seconds)) - sent[number]
            if due:
                lasted[number] += min(PAUSE, time.monotonic() - last[number])
                last[number] = time.monotonic()
                bench.send(load.port, (raw for _ in range(due)))
                lasted[number] += time.monotonic() - last[number]
                last[number] = time.monotonic()
                sent[number] += due

    began = 0.0
    while (now := time.monotonic() - start) < row.seconds:
        if not began and now >= min(SETTLE, row.seconds / 2):
            _receive(bench, arrivals, 0)
            arrivals.measured.clear()
            began = time.monotonic()
        send(now)
        _receive(bench, arrivals, TICK)
    _receive(bench, arrivals, 0)
    arrivals.seconds = time.monotonic() - began
    measured = arrivals.measured.copy()
    send(row.seconds)
    arrivals.sending = {
        markers[_key(load)]: time for (load, _), time in zip(frames, lasted, strict=True)
    }
    deadline = time.monotonic() + 3
    while _receive(bench, arrivals, DRAIN) and time.monotonic() < deadline:
        pass
    arrivals.measured = measured
    return arrivals


def _receive(bench: SoftBench, arrivals: Arrivals, wait: float) -> int:
    """Takes what waits at all ports, or comes within ``wait`` seconds; returns how much."""
    count = 0
    ready, _, _ = select.select(list(bench.ports.values()), [], [], wait)
    for number, port in bench.ports.items():
        if port not in ready:
            continue
        while (raw := port.receive()) is not None:
            key = number, marker_of(raw)
            arrivals.frames[key] += 1
            arrivals.measured[key] += len(raw)
            count += 1
    return count


# -- TCP ---------------------------------------------------------------------------------------


def _tcp_faults(
    bench: SoftBench, row: Measured, tcp: Tcp, before: Counters, least: float
) -> Iterator[str]:
    ends = (tcp.sender, tcp.receiver)
    for number, vfid in enumerate(ends):
        _guest_ip(bench, vfid, f"192.0.2.{number + 1}/24")
    bench.pump()
    try:
        received, seconds = _transfer(bench, tcp)
    finally:
        for vfid in ends:
            _guest_silent(bench, vfid)
        bench.pump()
    after = bench.counters()
    if received != tcp.size:
        yield f"{received} of {tcp.size} bytes arrived"
    moved = {
        vfid: {name: after[vfid][name] - before[vfid][name] for name in after[vfid]}
        for vfid in ends
    }
    yield from _counts(tcp, moved[tcp.sender], moved[tcp.receiver])
    rate = next(vf for vf in row.nic.vfs if vf.vfid == tcp.sender).rate
    if rate:
        reached = tcp.size * 8 / seconds / rate.on(0)
        if not least <= reached <= 0.98:
            yield f"TCP reached {reached:.0%} of the rate"


def _counts(tcp: Tcp, sender: Mapping[str, int], receiver: Mapping[str, int]) -> Iterator[str]:
    least = tcp.size // (1500 - 40)
    packets, size = sender["tx_packets"], sender["tx_bytes"]
    if not least <= packets <= least * 1.25 + 50:
        yield f"tx_packets moved by {packets}: {tcp.size} bytes are about {least} segments"
    if not tcp.size + least * TCP_HEADERS <= size <= tcp.size * 1.15 + packets * 80:
        yield f"tx_bytes moved by {size} for {packets} segments of {tcp.size} bytes"
    for name in ("packets", "bytes"):
        if receiver[f"rx_{name}"] != sender[f"tx_{name}"]:
            yield (
                f"the receiver's rx_{name} moved by {receiver[f'rx_{name}']},"
                f" the sender's tx_{name} by {sender[f'tx_{name}']}"
            )
    for name in ("spoofed", "oversize", "dropped_vlan", "dropped_untagged"):
        if sender[name] or receiver[name]:
            yield f"{name} moved by {sender[name]} and {receiver[name]}"


def _transfer(bench: SoftBench, tcp: Tcp) -> tuple[int, float]:
    """Sends over TCP; returns bytes received and seconds from connection to the last byte."""
    with namespace.inside(bench.guest(tcp.receiver)[0]):
        listener = socket.create_server(("192.0.2.2", PORT))
    with namespace.inside(bench.guest(tcp.sender)[0]):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    received = [0]

    def take() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(10)
            while chunk := peer.recv(1 << 18):
                received[0] += len(chunk)

    with listener, client:
        listener.settimeout(10)
        client.settimeout(10)
        taker = threading.Thread(target=take)
        taker.start()
        client.connect(("192.0.2.2", PORT))
        start = time.monotonic()
        client.sendall(bytes(tcp.size))
        client.shutdown(socket.SHUT_WR)
        taker.join()
        return received[0], time.monotonic() - start


def _guest_ip(bench: SoftBench, vfid: int, address: str) -> None:
    """Gives the guest's own stack the VF's MAC, the usual MTU and an address."""
    netns, name = bench.guest(vfid)
    _batch(
        netns,
        f"link set {name} address {mac(vfid)} mtu 1500",
        f"addr add {address} dev {name}",
    )


def _guest_silent(bench: SoftBench, vfid: int) -> None:
    netns, name = bench.guest(vfid)
    _batch(netns, f"addr flush dev {name}", f"link set {name} mtu {GUEST_MTU}")


def _batch(netns: str, *commands: str) -> None:
    subprocess.run(
        ["ip", "-n", netns, "-batch", "-"],
        input="\n".join(commands),
        text=True,
        check=True,
        capture_output=True,
    )
