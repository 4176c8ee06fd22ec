"""Traffic of other VFs while one VF is changed, on the emulated 82576 with the kernel's own igb."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.igb_bench import IgbBench
from tests.packet.case import WIRE
from tests.packet.frames import WORLD, mac

from vfd.policy.addresses import mac_bytes
from vfd.policy.values import NicPolicy, PfPolicy, VfPolicy

PF = "0000:02:00.0"
STREAM = 2
CHANGED = 1
PACE = 0.02
"""Seconds between frames each way: the emulation forwards some hundred frames a second."""
OPEN: dict[str, Any] = {"vlans": (101,), "strip_ctag": True, "vm_mac": mac(CHANGED)}
CHANGES: dict[str, dict[str, Any] | None] = {
    "closed": None,
    "opened": OPEN,
    "another VLAN": {**OPEN, "vlans": (111,)},
    "a rate": {**OPEN, "rate": "100Mbps"},
    "anti-spoofing off": {**OPEN, "mac_anti_spoof": False},
    "trust": {**OPEN, "trust": True},
    "the stream's own VLAN": {**OPEN, "vlans": (102,)},
    "another MAC": {**OPEN, "vm_mac": "02:00:00:00:00:aa"},
    "closed again": None,
    "opened as at first": OPEN,
}


@pytest.fixture(scope="module")
def bench() -> Iterator[IgbBench]:
    bench = IgbBench(PF, "wire1")
    yield bench
    bench.close()


def policy(changed: dict[str, Any] | None) -> NicPolicy:
    others = {n: {"vlans": (100 + n,), "strip_ctag": True, "vm_mac": mac(n)} for n in (0, STREAM)}
    every = {**others, **({CHANGED: changed} if changed else {})}
    vfs = (
        VfPolicy.model_validate({"name": f"vf{n}", "pciid": PF, "vfid": n, **rules})
        for n, rules in sorted(every.items())
    )
    return NicPolicy(pf=PfPolicy(id=PF), vfs=tuple(vfs))


class Stream:
    """Numbered frames, VF to wire and wire to VF, from a thread."""

    def __init__(self, bench: IgbBench) -> None:
        self._bench = bench
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _send(self) -> None:
        here, world = mac_bytes(mac(STREAM)), mac_bytes(WORLD)
        tag = bytes.fromhex("8100") + (100 + STREAM).to_bytes(2, "big")
        while not self._ended.wait(PACE):
            number = b"\x88\xb5live" + self.sent.to_bytes(4, "big") + bytes(50)
            self._bench.send(STREAM, [world + here + number])
            self._bench.send(WIRE, [here + world + tag + number])
            self.sent += 1

    def goes_on(self, frames: int = 10) -> None:
        """Returns when so many more frames were sent."""
        end, deadline = self.sent + frames, time.monotonic() + 60
        while self.sent < end:
            assert time.monotonic() < deadline, "the stream stands still"
            time.sleep(PACE)

    def arrived(self) -> dict[int, set[int]]:
        """The numbers that came, by port."""
        awaited = {STREAM: self.sent, WIRE: self.sent}
        frames = self._bench.collect(awaited, 10)
        return {
            port: {
                int.from_bytes(raw[at + 4 : at + 8], "big")
                for raw in frames[port]
                if (at := raw.find(b"live")) > 0
            }
            for port in (STREAM, WIRE)
        }


def test_no_frame_of_a_vf_is_lost_while_another_changes_closes_and_opens(bench: IgbBench) -> None:
    bench.become(policy(OPEN))
    bench.collect({}, 1)
    lost = {}
    for what, change in CHANGES.items():
        with Stream(bench) as stream:
            stream.goes_on()
            bench.become(policy(change))
            stream.goes_on()
        everything = set(range(stream.sent))
        for port, came in stream.arrived().items():
            if missing := everything - came:
                lost[what, "wire" if port == WIRE else f"VF {port}"] = sorted(missing)
    assert lost == {}
