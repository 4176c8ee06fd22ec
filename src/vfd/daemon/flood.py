"""Whoever asks without end, a guest or a user, fills neither the log's disk nor the list of
events."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

BURST = 200
"""Requests of one guest that are told one by one, at once."""
EVERY = 5.0
"""Seconds after which one more is."""


@dataclass(slots=True)
class _Asker:
    left: float
    since: float
    untold: int = 0


class Flood:
    """Who has been told of how often."""

    def __init__(self, burst: int = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._clock = clock
        self._askers: dict[Hashable, _Asker] = {}

    def untold(self, who: Hashable) -> int | None:
        """How many requests were not told before this one; None: this one isn't told either."""
        now = self._clock()
        asker = self._askers.setdefault(who, _Asker(self._burst, now))
        asker.left = min(self._burst, asker.left + (now - asker.since) / EVERY)
        asker.since = now
        if asker.left < 1:
            asker.untold += 1
            return None
        asker.left -= 1
        untold, asker.untold = asker.untold, 0
        return untold

    def fields(self, who: Hashable) -> dict[str, int] | None:
        """The same, as what is told with it; None: nothing is told."""
        untold = self.untold(who)
        if untold is None:
            return None
        return {"untold": untold} if untold else {}
