"""Is the mean loss at most the margin? Asked at up to four sizes of the text, and settled as early as can be.

The units are documents (or blocks) in random order; R = sum(S) / sum(n) is the mean over tokens. The claim is
looked at after a quarter, a half, all and twice the units of a claim of fixed size (`power.plan_claim`). Each
look has an equal share of four fifths of the allowed error (the rest is for tails that no sample shows), so
that by the union bound all bounds hold together with the stated confidence, whatever the looks have to do
with each other: a claim may stop at any of them, for any reason. (Between the looks nothing is said. Bounds
that hold at every unit, by a mixture of t statistics or by betting, either fail on skewed losses or need
losses that are bounded: docs/log.md.)

A look's bound is the mean and so many jackknife standard errors as Student's t asks for, or Hall's transform
of t, which allows for skewness (Hall, JRSS B 54, 1992, 221-228), whichever is more. Assumed is that units are
drawn independently from the text that the claim speaks of, and that their losses have third moments that so
many units can show: a disaster too rare to have been met is allowed for by no method without a known maximum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from penjing.errors import EmptyDataError
from penjing.measure.skewed import ERROR_SPENT, moments_of
from penjing.measure.stats import MIN_UNITS
from penjing.spec import Spec

Verdict = Literal["proved", "refuted", "open"]
FRACTIONS = (0.25, 0.5, 1.0, 2.0)  # of the fixed size, at which is looked


class SequentialBound(Spec):
    """What is known of the mean loss at a look; nats per token.

    lower, upper: one-sided bounds, each at `confidence` for all looks together. p_value: the least level at
    which "the mean is above the margin" could be given up, for all looks so far. units, tokens: looked at, of
    `of_units` that it could have taken.
    """

    margin: float
    verdict: Verdict
    mean: float
    lower: float
    upper: float
    confidence: float
    standard_error: float
    p_value: float
    units: int
    of_units: int
    tokens: int
    look: int
    looks: tuple[int, ...]


def looks_of(units: int, available: int) -> tuple[int, ...]:
    """The numbers of units at which to look, ascending: for a fixed size of `units`, with so many at hand.

    Raises EmptyDataError for fewer than 8.
    """
    if available < MIN_UNITS:
        raise EmptyDataError(
            f"{available} documents or blocks are too few for a bound: give at least {MIN_UNITS}"
        )
    wanted = {max(MIN_UNITS, math.ceil(fraction * units)) for fraction in FRACTIONS}
    return tuple(sorted({min(look, available) for look in wanted}))


class SequentialTest:
    """One claim, fed unit by unit; it looks when its time has come, and keeps its first answer.

    margin: nats per token. looks: numbers of units, from `looks_of`; to be fixed before any loss is seen.
    """

    def __init__(self, margin: float, looks: Sequence[int], confidence: float = 0.95) -> None:
        assert 0.5 < confidence < 1.0
        assert list(looks) == sorted(set(looks)), looks
        assert min(looks) >= MIN_UNITS, looks
        self.margin = margin
        self.looks = tuple(looks)
        self.confidence = confidence
        self.bound: SequentialBound | None = None
        self._sums: list[float] = []
        self._counts: list[int] = []

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing more to ask: proved, refuted, or at the last look."""
        return self.bound is not None and (self.bound.verdict != "open" or self.bound.look == len(self.looks))

    def add(self, total: float, tokens: int) -> SequentialBound | None:
        """Take a unit, by the sum of its paired differences over so many tokens; the last look's bound."""
        assert tokens > 0
        assert not self.is_settled, "the claim is settled: further text cannot change it"
        self._sums.append(total)
        self._counts.append(tokens)
        if len(self._sums) in self.looks:
            self.bound = self._look()
        return self.bound

    def _look(self) -> SequentialBound:
        sums, counts = np.array(self._sums), np.array(self._counts, np.float64)
        share = ERROR_SPENT * (1.0 - self.confidence) / len(self.looks)
        moments = moments_of(sums, counts)
        lower, upper = moments.bounds(share)
        before = 1.0 if self.bound is None else self.bound.p_value
        return SequentialBound(
            margin=self.margin,
            verdict=verdict_of(lower, upper, self.margin),
            mean=moments.mean,
            lower=lower,
            upper=upper,
            confidence=self.confidence,
            standard_error=moments.error,
            p_value=min(before, 1.0, len(self.looks) / ERROR_SPENT * moments.p_value(self.margin)),
            units=len(sums),
            of_units=self.looks[-1],
            tokens=int(counts.sum()),
            look=self.looks.index(len(sums)) + 1,
            looks=self.looks,
        )


def verdict_of(lower: float, upper: float, margin: float) -> Verdict:
    """Proved if all that is possible lies at or below the margin, refuted if all of it lies above."""
    if upper <= margin:
        return "proved"
    return "refuted" if lower > margin else "open"
