"""What happened: kept for a while, logged, and told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vfd.policy.shown import printable

log = logging.getLogger("vfd.event")

KEPT = 4096
"""Events that ``since`` can still reach."""
BACKLOG = 1024
"""Events that a slow reader may fall behind before it is dropped."""
AT_ONCE = 16
"""Events that a reader is told together: a backlog is worked off in steps, between which others
have their turn."""

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Happening:
    """One event. ``seq`` grows by one, and is larger than any of an earlier daemon; ``time`` is
    UTC."""

    seq: int
    time: float
    kind: str
    level: Level
    text: str
    pf: str | None = None
    vfid: int | None = None
    name: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """``emit`` may be called from any thread; everything else belongs to the event loop."""

    def __init__(self) -> None:
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        # The clock's microseconds: no daemon tells a million events in each second of its life.
        self._seq = time.time_ns() // 1000
        self._listeners: set[Listener] = set()
        self._in_loop: Callable[[Callable[[], None]], object] = lambda deliver: deliver()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, listeners are told in ``loop``'s thread."""
        self._in_loop = lambda deliver: (
            None if loop.is_closed() else loop.call_soon_threadsafe(deliver)
        )

    def emit(
        self,
        kind: str,
        text: str,
        *,
        level: Level = "info",
        pf: str | None = None,
        vfid: int | None = None,
        name: str | None = None,
        **data: Any,
    ) -> None:
        text = printable(text)
        pf, name = pf and printable(pf), name and printable(name)
        data = {k: printable(v) if isinstance(v, str) else v for k, v in data.items()}
        fields = {"event": kind, "pf": pf, "vfid": vfid, "name": name, **data}
        log.log(
            logging.getLevelName(level.upper()),
            text,
            extra={"fields": {k: v for k, v in fields.items() if v is not None}},
        )
        now = time.time()

        def deliver() -> None:
            self._seq += 1
            event = Happening(self._seq, now, kind, level, text, pf, vfid, name, data)
            self._kept.append(event)
            for listener in tuple(self._listeners):
                if not listener.offer(event):
                    self._listeners.discard(listener)

        self._in_loop(deliver)

    def since(self, seq: int) -> list[Happening]:
        """What is still kept of the events after ``seq``: all of them where that is still to come,
        being an earlier daemon's whose clock was ahead."""
        if seq > self._seq:
            seq = 0
        return [event for event in self._kept if event.seq > seq]

    def listen(self, since: int | None = None) -> Listener:
        """Told of all later events and of those after ``since``, until it is forgotten."""
        listener = Listener(self.since(since) if since is not None else ())
        self._listeners.add(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def close(self) -> None:
        """Ends every listener's stream after what it has already been told."""
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()


class Listener:
    """One reader's backlog. Never holds up the daemon: who falls too far behind is dropped."""

    def __init__(self, past: Iterable[Happening] = ()) -> None:
        self.queue = deque(past)
        self._room = len(self.queue) + BACKLOG
        self._more = asyncio.Event()
        self._ended = False

    def offer(self, event: Happening) -> bool:
        """False: the reader was too slow and gets no more than a notice of that."""
        if len(self.queue) >= self._room:
            self.queue.append(
                Happening(
                    self.queue[-1].seq,
                    event.time,
                    "dropped",
                    "warning",
                    f"{len(self.queue)} events were waiting for this reader: it was dropped."
                    " Connect again with since= this event's seq, which is the last one's",
                )
            )
            self.end()
            return False
        self.queue.append(event)
        self._more.set()
        return True

    def end(self) -> None:
        self._ended = True
        self._more.set()

    async def events(self) -> AsyncIterator[list[Happening]]:
        """What has come meanwhile, up to AT_ONCE at a time."""
        while True:
            while self.queue:
                yield [self.queue.popleft() for _ in range(min(AT_ONCE, len(self.queue)))]
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()
