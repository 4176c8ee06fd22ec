"""Steady streams of numbered frames, and tell-tales that must arrive nowhere.

One thread sends all of them and takes in what arrives at the untouched ports. Every frame ends
in its stream's number and its own; so what is lost, doubled or wrongly passed is known by name.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.packet.frames import Frame
from tests.packet.ports import Port

_MARK = struct.Struct("!2sHI")
TICK = 0.002
BURST = 20
"""Frames of a stream before what arrived is taken in: a sender that had to wait for a CPU catches
up without filling a queue."""


@dataclass(frozen=True, slots=True)
class Stream:
    """``port`` sends ``frame``; each of ``to`` must be given it as stated, no other port."""

    name: str
    port: int
    frame: Frame
    to: Mapping[int, Frame] = field(default_factory=dict)
    over_wire: bool = False
    """It may be lost while the wire is down."""


class Traffic:
    """Streams between ports. ``with traffic.running():`` they flow; afterwards ``faults``."""

    def __init__(self, streams: tuple[Stream, ...], ports: Mapping[int, Port], pps: int):
        self.streams = streams
        self.ports = ports
        self.pps = pps
        self._run = os.urandom(2)
        self._sent: Counter[int] = Counter()
        self._got: Counter[tuple[int, int, int]] = Counter()
        self.wrong: list[str] = []
        self._own_mac: dict[int, str] = {}
        self._error: BaseException | None = None
        self._ends = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Streams flow while the block runs, and 50 ms before and after."""
        thread = threading.Thread(target=self._flow, name="traffic")
        self._ends.clear()
        thread.start()
        time.sleep(0.05)
        try:
            yield
            time.sleep(0.05)
        finally:
            self._ends.set()
            thread.join()
        if self._error:
            raise self._error

    @property
    def sent(self) -> int:
        """Frames of streams that must arrive."""
        return sum(n for number, n in self._sent.items() if self.streams[number].to)

    def faults(self, *, wire_was_down: bool = False) -> list[str]:
        """What was lost, doubled or wrongly passed."""
        found = list(self.wrong)
        for number, stream in enumerate(self.streams):
            for port in stream.to:
                total = self._sent[number]
                counts = [self._got[port, number, seq] for seq in range(total)]
                lost = [seq for seq, count in enumerate(counts) if not count]
                if lost and not (wire_was_down and (stream.over_wire or port < 0)):
                    found.append(
                        f"{stream.name}: {len(lost)} of {total} lost, from number {lost[0]}"
                        f" to {lost[-1]}"
                    )
                doubled = sum(count > 1 for count in counts)
                if doubled:
                    found.append(f"{stream.name}: {doubled} of {total} doubled")
        return found

    def _flow(self) -> None:
        try:
            self._send_and_take()
        except BaseException as error:  # for the test's thread, which raises it again
            self._error = error

    def _send_and_take(self) -> None:
        heads = []
        for stream in self.streams:
            whole = stream.frame.with_marker(bytes(8), self._own_mac)
            heads.append(whole[:-8])
        expected = {
            (port, number): frame.with_marker(bytes(8), self._own_mac)[:-8]
            for number, stream in enumerate(self.streams)
            for port, frame in stream.to.items()
        }
        already = self._sent[0]
        start = time.monotonic()
        while not self._ends.is_set():
            due = already + int((time.monotonic() - start) * self.pps)
            for number, stream in enumerate(self.streams):
                port = self.ports[stream.port]
                last = min(due, self._sent[number] + BURST)
                while self._sent[number] < last:
                    mark = _MARK.pack(self._run, number, self._sent[number])
                    self._sent[number] += 1
                    try:
                        port.send(heads[number] + mark)
                    except OSError:
                        # ENETDOWN on a wire that is down: lost, and counted so
                        if stream.port >= 0:
                            raise
            self._take(expected, TICK)
        deadline = time.monotonic() + 1
        while self._take(expected, 0.05) and time.monotonic() < deadline:
            pass

    def _take(self, expected: Mapping[tuple[int, int], bytes], wait: float) -> int:
        taken = 0
        select.select(list(self.ports.values()), [], [], wait)
        for where, port in self.ports.items():
            while (raw := port.receive()) is not None:
                run, number, seq = _MARK.unpack(raw[-8:])
                if run != self._run or number >= len(self.streams):
                    continue
                taken += 1
                if expected.get((where, number)) == raw[:-8]:
                    self._got[where, number, seq] += 1
                elif len(self.wrong) < 10:
                    name = self.streams[number].name
                    self.wrong.append(f"{name}: number {seq} came to port {where}: {raw.hex()}")
        return taken
