"""What is remembered of a value is what would be worked out again."""

from __future__ import annotations

import gc

from vfd.policy.memo import by_identity
from vfd.policy.values import Mirror


def test_an_object_is_looked_at_again_only_when_something_else_changes() -> None:
    looked: list[tuple[int, int]] = []

    @by_identity
    def sum_with(mirror: Mirror, more: int) -> int:
        looked.append((mirror.target, more))
        return mirror.target + more

    one, other = Mirror(target=1), Mirror(target=1)
    assert [sum_with(one, 1), sum_with(one, 1), sum_with(one, 2), sum_with(other, 2)] == [
        2,
        2,
        3,
        3,
    ]
    assert looked == [(1, 1), (1, 2), (1, 2)]


def test_an_object_in_the_place_of_a_dead_one_is_another() -> None:
    @by_identity
    def target(mirror: Mirror) -> int:
        return mirror.target

    for number in range(100):
        assert target(Mirror(target=number)) == number
        gc.collect(0)
