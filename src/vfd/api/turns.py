"""Whose turn it is: users get as much of the daemon as others, and root need not wait for them.

One thread answers everybody, and it shares the interpreter with the one that works on NICs. So all
that a user makes it do comes in small pieces, a turn for each: to begin a connection, to read what
was sent on one, to be sent the next events. Turns go round the users, not the connections, and
all of them together get so many a second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

RATE = 400.0
"""Turns a second, of all users together. A request takes two or three, of less than 1 ms each."""
BURST = 40.0
"""Turns that come at once after a quiet time."""
AT_ONCE = 2
"""Turns in one round of the event loop: what root asks for comes between them."""


class Turns:
    """Belongs to the event loop ``loop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, deque[Callable[[], None]]] = {}
        """By uid; whose turn is next stands first."""
        self._left = BURST
        self._since = self._loop.time()
        self._timer: asyncio.Handle | None = None

    def take(self, uid: int, go: Callable[[], None]) -> None:
        """Has ``go`` called when it is this user's turn: soon, if nobody asks without end."""
        self._waiting.setdefault(uid, deque()).append(go)
        if self._timer is None:
            self._timer = self._loop.call_soon(self._go_round)

    async def turn(self, uid: int) -> None:
        """Waits for this user's turn."""
        come: asyncio.Future[None] = self._loop.create_future()
        self.take(uid, lambda: None if come.done() else come.set_result(None))
        await come

    def _go_round(self) -> None:
        now = self._loop.time()
        self._left = min(BURST, self._left + (now - self._since) * RATE)
        self._since = now
        self._timer = None
        try:
            for _ in range(min(AT_ONCE, int(self._left))):
                if not self._waiting:
                    break
                self._left -= 1
                uid = next(iter(self._waiting))
                theirs = self._waiting.pop(uid)
                go = theirs.popleft()
                if theirs:
                    self._waiting[uid] = theirs
                go()
        finally:
            if self._waiting:
                wait = max(0.0, (1 - self._left) / RATE)
                self._timer = self._loop.call_later(wait, self._go_round)
