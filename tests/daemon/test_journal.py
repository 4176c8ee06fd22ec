"""Events reach whoever reads them, each once, also over a break or a restart."""

from __future__ import annotations

import asyncio
import time

from vfd.daemon.journal import BACKLOG, KEPT, Happening, Journal, Listener


def ticks(journal: Journal, count: int) -> None:
    for number in range(count):
        journal.emit("tick", str(number))


def all_of(listener: Listener) -> list[Happening]:
    async def read() -> list[Happening]:
        return [event async for some in listener.events() for event in some]

    listener.end()
    return asyncio.run(read())


def test_a_reader_that_was_dropped_goes_on_where_it_was() -> None:
    journal = Journal()
    slow = journal.listen()
    ticks(journal, BACKLOG + 5)
    told = all_of(slow)
    assert told[-1].kind == "dropped"
    told += all_of(journal.listen(since=told[-1].seq))
    assert [e.text for e in told if e.kind == "tick"] == [str(n) for n in range(BACKLOG + 5)]


def test_a_long_past_leaves_a_reader_room_for_what_comes() -> None:
    journal = Journal()
    ticks(journal, KEPT)
    reader = journal.listen(since=0)
    ticks(journal, BACKLOG)
    assert len(all_of(reader)) == KEPT + BACKLOG
    reader = journal.listen(since=0)
    ticks(journal, BACKLOG + 1)
    assert all_of(reader)[-1].kind == "dropped"


def test_a_reader_of_an_earlier_daemon_misses_nothing_of_the_next() -> None:
    earlier = Journal()
    ticks(earlier, 1000)
    last = earlier.since(0)[-1].seq
    time.sleep(0.002)
    later = Journal()
    ticks(later, 1500)
    assert [e.text for e in all_of(later.listen(since=last))] == [str(n) for n in range(1500)]
    assert len(later.since(last)) == 1500


def test_a_clock_that_was_put_back_costs_a_reader_nothing() -> None:
    later = Journal()
    ticks(later, 3)
    assert len(all_of(later.listen(since=later.since(0)[-1].seq + 10**9))) == 3
