"""Whose turn it is: users get as much of the daemon as others, and root need not wait for them.

One thread answers everybody, and it shares the interpreter with the one that works on NICs. So all
that a user makes it do comes in small pieces, a turn for each: to begin a connection, to read what
was sent on one, to be sent the next events. Turns go round the users, not the connections, and
all of them together get so many a second. Of the requests themselves only a few are at work at a
time, one of each user's, and for as long again there is none in that place.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

RATE = 250.0
"""Turns a second, of all users together, while this thread has nothing else to do. A request takes
two or three, of some 0.5 ms each."""
SPARED = 3
"""For each second that this thread has worked there are none for so many: with turns that take
long they use no more than a third of a CPU, as long as AT_LEAST is less than that (13 ms each)."""
OWED = 0.5
"""Seconds of that which are still to come at most: what root makes it work is soon forgiven."""
AT_LEAST = 0.1
"""Of the turns, however much root makes it work."""
BURST = 40.0
"""Turns that come at once after a quiet time."""
AT_ONCE = 2
"""Turns in one round of the event loop: what root asks for comes between them."""

AT_WORK = 2
"""Requests that are being answered at a time: what root and guests ask for comes behind those."""
WAITING_AT_WORK = 8
"""Of one user those that may wait for a callback, which don't count among them."""
LONGEST_REST = 0.2
"""Seconds."""


class Turns:
    """Belongs to the event loop that runs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, deque[Callable[[], None]]] = {}
        """By uid; whose turn is next stands first."""
        self._left = BURST
        self._owed = 0.0
        """Seconds for which there are to be none."""
        self._since, self._worked = self._loop.time(), time.thread_time()
        self._timer: asyncio.Handle | None = None
        self._at_work = asyncio.Semaphore(AT_WORK)
        self._of_user: dict[tuple[int, bool], asyncio.Semaphore] = {}

    @asynccontextmanager
    async def at_work(self, uid: int, *, may_wait: bool) -> AsyncIterator[None]:
        """While a request of this user's is answered; ``may_wait``: perhaps for a callback."""
        most = WAITING_AT_WORK if may_wait else 1
        async with self._of_user.setdefault((uid, may_wait), asyncio.Semaphore(most)):
            if may_wait:
                yield
                return
            await self._at_work.acquire()
            began = self._loop.time()
            try:
                yield
            finally:
                rest = min(self._loop.time() - began, LONGEST_REST)
                self._loop.call_later(rest, self._at_work.release)

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
        now, worked = self._loop.time(), time.thread_time()
        passed, busy = now - self._since, worked - self._worked
        owed = min(self._owed + SPARED * busy, OWED)
        without = min(owed, (1 - AT_LEAST) * passed)
        self._owed = owed - without
        self._left = min(BURST, self._left + (passed - without) * RATE)
        self._since, self._worked = now, worked
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
