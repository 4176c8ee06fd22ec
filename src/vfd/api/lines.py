"""Events as JSON, each written once, however many readers it has."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from vfd.api import views
from vfd.api.encoding import encoded
from vfd.daemon.journal import KEPT, Happening

_AT_ONCE = 64
"""Events of a long list that are written before others have their turn."""


class Lines:
    """Of the events that the journal keeps."""

    def __init__(self) -> None:
        self._lines: dict[int, str] = {}

    def of(self, event: Happening) -> str:
        line = self._lines.get(event.seq)
        if line is None:
            line = self._lines[event.seq] = encoded(views.event(event))
            if len(self._lines) > KEPT:
                del self._lines[next(iter(self._lines))]  # the one that was written first
        return line

    async def listed(self, events: Iterable[Happening]) -> str:
        """An EventList."""
        lines = []
        for number, event in enumerate(events, 1):
            lines.append(self.of(event))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return f'{{"events":[{",".join(lines)}]}}'
