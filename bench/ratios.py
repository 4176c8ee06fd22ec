"""What is made of slices: medians of ratios within a round, and how far they scatter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over the rounds, and the quartiles: half of the rounds lie between these."""

    low: float
    median: float
    high: float
    least: float
    most: float
    """The median of ever so many rounds lies between these two, in 95 of 100 cases."""

    def tells(self, bar: float) -> bool:
        """On which side of ``bar`` the ratio is: not while more rounds may show the other."""
        return not self.least <= bar <= self.most or self.least == self.most

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        if len(values) < 2:
            (only,) = values
            return Spread(only, only, only, only, only)
        # which of the sorted values: a binomial distribution's, as a normal one
        off = 0.98 * math.sqrt(len(values))
        middle, ranked = (len(values) - 1) / 2, sorted(values)
        least = ranked[max(0, math.floor(middle - off))]
        most = ranked[min(len(values) - 1, math.ceil(middle + off))]
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(low, median, high, least, most)


@dataclass(frozen=True, slots=True)
class Slices(Generic[Key]):
    """A race's values: of each lane, round by round, what its slice showed."""

    by: Mapping[Key, Sequence[Sequence[float]]]

    def rounds(self, lane: Key) -> list[float]:
        """One value a round."""
        return [statistics.median(values) for values in self.by[lane]]

    def median(self, lane: Key) -> float:
        return statistics.median(self.rounds(lane))

    def percentile(self, lane: Key, which: int) -> float:
        """Of all values of all rounds."""
        values = [value for values in self.by[lane] for value in values]
        return statistics.quantiles(values, n=100, method="inclusive")[which - 1]

    def ratio(self, lane: Key, to: Key, *, less: Key | None = None) -> Spread:
        """``lane`` as a multiple of ``to``, taken within each round, where the machine was the same
        for both. ``less``: what is in both and is taken out of both first."""
        mine, its = self.rounds(lane), self.rounds(to)
        common = self.rounds(less) if less is not None else [0.0] * len(mine)
        return Spread.of([(a - c) / (b - c) for a, b, c in zip(mine, its, common, strict=True)])
