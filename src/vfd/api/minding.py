"""The sockets stay where clients look for them, whoever removes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vfd.api.entrance import Entrance
from vfd.daemon.exclusive import InUseError
from vfd.daemon.journal import Journal
from vfd.daemon.sockets import Sockets

SETTLE = 0.2
"""Seconds in which whoever is at it in that folder gets done, before a socket is made again."""
RETRY, RETRY_AT_LAST = 1.0, 30.0
"""Seconds until it is tried again after it was made, or could not be: at first, and after some
doublings. Two programs that fight over a path take no CPU to speak of."""


class Minding:
    """Listens at the sockets, and makes those again that somebody has removed or replaced.

    Nothing is done while they are in place, and nothing against a program that serves there: its
    socket is told of and left, until it goes.
    """

    def __init__(
        self,
        sockets: Sockets,
        entrance: Entrance,
        journal: Journal,
        made_again: Callable[[], object],
        stirred: Callable[[], object],
    ) -> None:
        self._sockets = sockets
        self._made_again = made_again
        self._stirred = stirred
        self._entrance = entrance
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._wait = RETRY
        self._told = ""
        for sock in sockets.listening():
            entrance.open(sock)
        self._watch()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unwatch()
        for sock in self._sockets.listening():
            self._entrance.close(sock)

    def _watch(self) -> None:
        if self._sockets.fileno() >= 0:
            self._loop.add_reader(self._sockets.fileno(), self._look)

    def _unwatch(self) -> None:
        if self._sockets.fileno() >= 0:
            self._loop.remove_reader(self._sockets.fileno())

    def _look(self) -> None:
        if not self._sockets.missing():
            self._stirred()
        elif self._timer is None:
            self._mend_in(max(SETTLE, self._not_before - self._loop.time()))

    def _mend_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._mend)

    def _mend(self) -> None:
        self._timer = None
        missing = self._sockets.missing()
        if not missing:
            self._wait, self._told = RETRY, ""
            return
        names = ", ".join(str(path) for path in missing)
        before = self._sockets.listening()
        self._unwatch()
        try:
            self._sockets.mend()
        except (InUseError, OSError) as error:
            if str(error) != self._told:  # told once, not at every attempt
                self._told = str(error)
                text = f"{names} is gone, and can't be made again: {error}"
                self._journal.emit("failed", text, level="error")
            self._mend_in(self._wait)
            self._wait = min(2 * self._wait, RETRY_AT_LAST)
        else:
            text = f"{names} was removed or replaced by somebody: it is there again"
            self._journal.emit("back", text, level="warning")
            self._made_again()
            self._not_before = self._loop.time() + self._wait
            self._wait, self._told = RETRY, ""
        now = self._sockets.listening()
        for sock in set(before) - set(now):
            self._entrance.close(sock)
        for sock in set(now) - set(before):
            self._entrance.open(sock)
        self._watch()
