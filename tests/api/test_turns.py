"""Turns go round the users, and what they cost is spared."""

from __future__ import annotations

import asyncio
import selectors
import time

import pytest

from vfd.api.turns import AT_WORK, BURST, Turns


def test_a_user_who_asks_once_comes_before_the_rest_of_who_asks_a_thousand_times() -> None:
    async def run() -> list[int]:
        turns, order = Turns(), list[int]()
        for _ in range(1000):
            turns.take(1, lambda: order.append(1))
        turns.take(2, lambda: order.append(2))
        await turns.turn(2)
        return order

    order = asyncio.run(run())
    assert order.index(2) <= 1


class Skipping(selectors.DefaultSelector):
    """Waits for nothing; ``skipped``: the seconds for which it should have."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.skipped += timeout or 0.0
        return super().select(0)


class Ahead(asyncio.SelectorEventLoop):
    """A loop that waits for nothing, and whose clock goes on as if it did."""

    def __init__(self) -> None:
        self.skipping = Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return super().time() + self.skipping.skipped


def test_there_are_so_many_turns_a_second_and_no_more() -> None:
    async def run() -> tuple[int, float]:
        turns, count = Turns(), 0
        worked = time.thread_time()

        def go() -> None:
            nonlocal count
            count += 1

        for _ in range(10_000):
            turns.take(1, go)
        await asyncio.sleep(10)
        return count, time.thread_time() - worked

    began, loop = time.monotonic(), Ahead()
    then = loop.time()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        done, worked = runner.run(run())
        passed = loop.time() - then
    held_up = time.monotonic() - began
    least = BURST + 250 * (10 - held_up - 3 * worked)
    assert least - 25 < done <= BURST + 250 * passed + 1, "but for what it was held up"


@pytest.mark.measured
@pytest.mark.parametrize("seconds", [0.002, 0.01])
def test_turns_that_take_long_leave_most_of_the_time_to_others(seconds: float) -> None:
    async def run() -> float:
        turns, count = Turns(), 0

        def work() -> None:
            nonlocal count
            count += 1
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass

        await asyncio.sleep(0.05)
        for _ in range(int(BURST)):
            turns.take(1, lambda: None)
        await turns.turn(1)
        for _ in range(1000):
            turns.take(1, work)
        began = time.monotonic()
        await asyncio.sleep(1)
        return count * seconds / (time.monotonic() - began)

    assert 0.15 <= asyncio.run(run()) <= 1 / 3 + 2 * seconds, "of the CPU; the last are unpaid"


def test_few_requests_are_at_work_at_a_time_and_each_users_next_one_waits() -> None:
    async def run() -> tuple[int, int]:
        turns, now, most = Turns(), 0, 0
        of_one = most_of_one = 0

        async def request(uid: int) -> None:
            nonlocal now, most, of_one, most_of_one
            async with turns.at_work(uid, may_wait=False):
                now, of_one = now + 1, of_one + (uid == 0)
                most, most_of_one = max(most, now), max(most_of_one, of_one)
                await asyncio.sleep(0.005)
                now, of_one = now - 1, of_one - (uid == 0)

        await asyncio.gather(*(request(n % 5) for n in range(20)))
        return most, most_of_one

    assert asyncio.run(run()) == (AT_WORK, 1)


def test_who_waits_for_a_callback_keeps_nobody_waiting() -> None:
    async def run() -> None:
        turns = Turns()
        waiting = asyncio.Event()

        async def delete() -> None:
            async with turns.at_work(1, may_wait=True):
                await waiting.wait()

        deleting = asyncio.gather(*(delete() for _ in range(5)))
        await asyncio.sleep(0)
        async with asyncio.timeout(1), turns.at_work(1, may_wait=False):
            pass
        waiting.set()
        await deleting

    asyncio.run(run())
