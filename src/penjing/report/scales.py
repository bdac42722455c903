"""From values to places on paper, and the round numbers that axes are marked with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LOGARITHMIC_FROM = 20.0  # the largest over the smallest positive value


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on the stretch from `start` to `end` (units of the picture)."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; beyond the ends, at the end."""
        value = min(max(value, self.low), self.high)
        share = (self.warp(value) - self.warp(self.low)) / (self.warp(self.high) - self.warp(self.low))
        return self.start + share * (self.end - self.start)

    def warp(self, value: float) -> float:
        """What is linear in the place."""
        return math.log10(value) if self.logarithmic else value

    def ticks(self, count: int) -> list[float]:
        """About so many round values, at least two."""
        return log_ticks(self.low, self.high, count) if self.logarithmic else even_ticks(self, count)


def even_ticks(scale: Scale, count: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
    step = round_step((scale.high - scale.low) / max(1, count))
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def round_step(least: float) -> float:
    """The smallest round number that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Powers of ten; with 2 and 5 times them where they are few, every second or third where many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / max(1, count)))
    marks: tuple[float, ...] = (1.0,) if last - first > count / 2 else (1.0, 2.0, 5.0)
    found = [mark * 10.0**power for power in range(first, last + 1, every) for mark in marks]
    return [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def spread(values: Iterable[float]) -> tuple[float, float, bool]:
    """(low, high, logarithmic) of an axis that shows all values with some air around them.

    Logarithmic where they are far apart; values that are not positive then lie on its lower end.
    """
    held = list(values)
    positive = [value for value in held if value > 0]
    high = max(held)
    if positive and high / min(positive) >= LOGARITHMIC_FROM:
        return min(positive) / 1.6, high * 1.6, True
    low = min(0.0, *held)
    air = 0.08 * ((high - low) or 1.0)
    return (low - air if low < 0 else 0.0), high + air, False
