"""Runs cases on a bench and says what went wrong, in the words of the case."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from vfd.nic.protocol import Counters

from .bench import Bench
from .case import VFS, WIRE, Ask, Become, Case, Leave, Link, Send, Step, Wire
from .expect import link_is_down, traffic
from .frames import describe, marker_of

PATIENCE = 2.0
"""Seconds for an expected frame to arrive; only a failing case takes that long."""
DRAIN = 0.05
"""Seconds of silence after which the queues count as empty."""
SETTLING = 5
"""How often counters are read again before they count as wrong."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a marker stands for."""

    case: Case
    step: Send


class Runner:
    """Runs cases on one bench. Remembers every marker, so that a frame that comes late, to a
    port where it must not be, is still noticed and blamed on its case (``late``)."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._sent: dict[bytes, Sent] = {}
        self._run = os.urandom(3)
        self._late: list[str] = []

    def run(self, case: Case) -> list[str]:
        """Runs the case; returns what differs from it, nothing if all is as it says."""
        self.bench.configure(case.nic)
        faults: list[str] = []
        for group in _batches(case.steps):
            if isinstance(group[0], Send):
                faults += self._exchange(case, [step for step in group if isinstance(step, Send)])
            else:
                faults += self._do(group[0])
        return faults

    def silence(self) -> None:
        """Empties what was left in queues, and what has arrived."""
        while any((arrived := self.bench.collect({}, DRAIN)).values()):
            self._sort_out(arrived, set())

    def late(self) -> list[str]:
        """Frames that arrived after their case was over, where they must not be."""
        self._sort_out(self.bench.collect({}, 0.3), set())
        return self._late

    def _do(self, step: Step) -> list[str]:
        match step:
            case Become(policy):
                self.bench.become(policy)
            case Wire(up):
                self.bench.wire(up)
            case Leave(vfid):
                self.bench.leave(vfid)
            case Link(vfid, up):
                if not self.bench.link_is(vfid, up):
                    return [f"the guest of VF {vfid}: its link must be {'up' if up else 'down'}"]
            case Ask(request, granted):
                if self.bench.ask(request) != granted:
                    return [f"{request}: must be {'granted' if granted else 'refused'}"]
        return []

    def _exchange(self, case: Case, steps: list[Send]) -> list[str]:
        """Sends the frames of consecutive steps at once; judges frames by step, counters in sum."""
        own_mac = dict(self.bench.own_mac)
        markers = [self._mark(case, step) for step in steps]
        frames = [
            step.frame.with_marker(marker, own_mac)
            for step, marker in zip(steps, markers, strict=True)
        ]
        before = self.bench.counters()
        # One call for each run of frames from the same port keeps the order and the calls few.
        start = 0
        for at in range(1, len(steps) + 1):
            if at == len(steps) or steps[at].port != steps[start].port:
                self.bench.send(steps[start].port, frames[start:at])
                start = at
        awaited = Counter(dict.fromkeys((WIRE, *range(VFS)), 0))
        for step in steps:
            awaited.update({port: len(out) for port, out in step.out.items()})
        got = self._sort_out(self.bench.collect(awaited, PATIENCE), set(markers))
        moves = Moves(self.bench, steps, frames, before)
        for _ in range(SETTLING):  # a frame is counted and delivered, in no certain order
            if not moves.faults():
                break
            for key, more in self._sort_out(self.bench.collect({}, 0.05), set(markers)).items():
                got[key] = got.get(key, Counter()) + more

        faults: list[str] = []
        for step, marker in zip(steps, markers, strict=True):
            expected = {
                port: Counter(each.with_marker(marker, own_mac) for each in out)
                for port, out in step.out.items()
            }
            for port in (WIRE, *range(VFS)):
                faults += _differences(
                    step, port, expected.get(port, Counter()), got.get((port, marker), Counter())
                )
        return faults + moves.faults()

    def _mark(self, case: Case, step: Send) -> bytes:
        marker = b"V" + self._run + struct.pack("!I", len(self._sent))
        self._sent[marker] = Sent(case, step)
        return marker

    def _sort_out(
        self, arrived: dict[int, list[bytes]], markers: set[bytes]
    ) -> dict[tuple[int, bytes], Counter[bytes]]:
        """Arrivals of these markers by (port, marker). Other cases' frames are late ones;
        frames without a known marker are no affair of ours (a guest's own stack)."""
        ours: dict[tuple[int, bytes], Counter[bytes]] = {}
        for port, frames in arrived.items():
            for raw in frames:
                marker = marker_of(raw)
                if marker in markers:
                    ours.setdefault((port, marker), Counter())[raw] += 1
                elif sent := self._sent.get(marker):
                    self._late.append(f"{sent.case.name}: late at {_port(port)}: {describe(raw)}")
        return ours


def say(faults: list[str]) -> None:
    """Fails the test with all that is wrong, a line each."""
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def _batches(steps: tuple[Step, ...]) -> Iterator[list[Step]]:
    """Consecutive sends together, everything else alone."""
    batch: list[Step] = []
    for step in steps:
        if isinstance(step, Send):
            batch.append(step)
            continue
        if batch:
            yield batch
        yield [step]
        batch = []
    if batch:
        yield batch


def _port(number: int) -> str:
    return "the wire" if number == WIRE else f"VF {number}"


def _differences(
    step: Send, port: int, expected: Counter[bytes], got: Counter[bytes]
) -> Iterable[str]:
    what = f"{_port(step.port)} sent {step.frame}: at {_port(port)}"
    for raw in (expected - got).elements():
        yield f"{what} missing: {describe(raw)}"
    for raw in (got - expected).elements():
        yield f"{what} unexpected: {describe(raw)}"


class Moves:
    """Counters against what the steps state, and packets and bytes against what passed."""

    def __init__(
        self, bench: Bench, steps: list[Send], frames: list[bytes], before: Counters
    ) -> None:
        self._bench = bench
        self._before = before
        self._expected: Counter[tuple[int, str]] = Counter()
        self._excused: set[int] = set()
        for step, raw in zip(steps, frames, strict=True):
            self._expected.update(traffic(step, raw, dict(bench.own_mac)))
            if not bench.counts_link_down:
                self._excused |= link_is_down(step)

    def faults(self) -> list[str]:
        """What differs now."""
        after = self._bench.counters()
        found = []
        for port in (WIRE, *range(VFS)):
            # what the NIC can't count is absent, and what it can is there
            odd = set(self._bench.counted ^ set(after[port]))
            if port == WIRE:
                odd = set(after[port]) - self._bench.counted
            found += [f"{_port(port)}: {name} is shown or absent wrongly" for name in sorted(odd)]
            for name in sorted(self._bench.counted & set(after[port])):
                if port in self._excused and name in ("rx_dropped", "tx_dropped"):
                    continue
                moved = after[port][name] - self._before[port].get(name, 0)
                expected = self._expected[port, name]
                if moved != expected:
                    found.append(f"{_port(port)}: {name} moved by {moved}, not by {expected}")
        return found
