"""How far a score may have dropped, from documents that both sides answered; documents are the units.

Scores of 0 and 1 are bounded exactly. A document is lost (only the reference is right) or won (only the
candidate is) with unknown probabilities, and the drop is their difference. Outcomes are put in the order of
lost - won + 1.645 sqrt(lost + won + 1), which rises with every document lost and falls with every one won.
The p-value of "the drop is at least m" is the largest probability of an outcome as good as the one seen, over
all shares of unequal answers that the data leave possible, plus the chance that these leave out the true one
(Buehler, JASA 52, 1957, 482-493; Berger & Boos, JASA 89, 1994, 1012-1016; for the share, Clopper & Pearson,
Biometrika 26, 1934, 404-413).

Other scores are bounded as a look of a claim is: `skewed`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penjing.measure.skewed import ERROR_SPENT, UnitMoments, moments_of
from penjing.measure.stats import MIN_UNITS

Floats = NDArray[np.float64]
LEFT_OUT = 1e-4  # chance that the true share of unequal answers is outside what is looked at
SHARES = 16  # looked at between the least and the largest possible
CAUTION = 1.645  # standard errors; below 2.4, or a document won would not always be good news
DEVIATIONS = 8  # standard deviations, beyond which nothing is counted: 1e-15
TINY = 1e-15  # probabilities are kept so far from 0 and 1
BISECTIONS = 20  # of an interval of at most 2: to a few millionths


@dataclass(frozen=True)
class PairedAnswers:
    """Right and wrong answers to the same documents; `lost` by the candidate, and `won`."""

    documents: int
    lost: int
    won: int

    @property
    def drop(self) -> float:
        """How much smaller the share of right answers is, -1 to 1."""
        return (self.lost - self.won) / self.documents

    def p_value(self, margin: float) -> float:
        """How likely so small a drop is, at most, if the true one is `margin` or more; exact."""
        least, largest = self._possible_shares
        if abs(margin) > largest:
            return 1.0 if margin < 0 else LEFT_OUT
        shares = np.linspace(max(abs(margin), least), largest, SHARES)
        probabilities = [self._as_good(share, margin) for share in shares]
        return min(1.0, max(probabilities) + LEFT_OUT)

    def upper(self, confidence: float) -> float:
        """The drop that is not exceeded with this confidence."""
        low, high = self.drop, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.p_value(middle) <= 1.0 - confidence else (middle, high)
        return high

    def _as_good(self, share: float, margin: float) -> float:
        """The probability of an outcome as good as this one, at so large a share of unequal answers."""
        share = min(max(share, TINY), 1.0 - TINY)
        lost_of_unequal = min(max((1.0 + margin / share) / 2, TINY), 1.0 - TINY)
        unequal = plausible(self.documents, share)
        seen = self.lost - self.won + CAUTION * math.sqrt(self.lost + self.won + 1)
        most_lost = np.floor((seen + unequal - CAUTION * np.sqrt(unequal + 1)) / 2 + 1e-9)
        lost = plausible(int(unequal[-1]), lost_of_unequal, least=int(unequal[0]))[None, :]
        given = binomial(self._log_factorials, unequal[:, None], lost, lost_of_unequal)
        given *= lost <= most_lost[:, None]
        return float(binomial(self._log_factorials, self.documents, unequal, share) @ given.sum(axis=1))

    @cached_property
    def _log_factorials(self) -> Floats:
        logarithms = np.log(np.arange(1, self.documents + 1))
        return np.concatenate([[0.0], np.cumsum(logarithms)])

    @cached_property
    def _possible_shares(self) -> tuple[float, float]:
        """Of unequal answers: Clopper and Pearson's bounds."""
        unequal, tail = self.lost + self.won, LEFT_OUT / 2
        equal = self.documents - unequal
        return (
            1.0 - clopper_pearson_upper(equal, self.documents, tail),
            clopper_pearson_upper(unequal, self.documents, tail),
        )


@dataclass(frozen=True)
class PairedScores:
    """Any other scores: a ratio of sums over documents, and the range of the scores seen, a unit of it."""

    moments: UnitMoments
    spread: float

    @property
    def documents(self) -> int:
        """How many there are."""
        return self.moments.units

    @property
    def drop(self) -> float:
        """The mean difference, reference less candidate."""
        return self.moments.mean

    def p_value(self, margin: float) -> float:
        """How likely so small a drop is if the true one is `margin` or more; 1 for fewer than 8 documents."""
        if self.documents < MIN_UNITS:
            return 1.0
        if self.moments.error > 0.0:
            return min(1.0, self.moments.p_value(margin) / ERROR_SPENT)
        # All documents differ alike: as if the share of those that do not had been counted, as zero.
        if margin <= self.drop:
            return 1.0
        share = 1.0 if self.spread == 0.0 else min(1.0, (margin - self.drop) / self.spread)
        return float((1.0 - share) ** self.documents)

    def upper(self, confidence: float) -> float | None:
        """The drop that is not exceeded with this confidence; None for fewer than 8 documents."""
        if self.documents < MIN_UNITS:
            return None
        if self.moments.error > 0.0:
            return self.moments.bounds(ERROR_SPENT * (1.0 - confidence))[1]
        return float(self.drop + self.spread * (1.0 - (1.0 - confidence) ** (1.0 / self.documents)))


def pair_scores(reference: Floats, candidate: Floats) -> PairedAnswers | PairedScores:
    """Of the scores of each document, higher is better [documents], at least one."""
    both = np.concatenate([reference, candidate])
    if np.isin(both, (0.0, 1.0)).all():
        lost, won = int((reference > candidate).sum()), int((reference < candidate).sum())
        return PairedAnswers(len(reference), lost, won)
    return pair_sums(reference, candidate, np.ones(len(reference)))


def pair_sums(reference: Floats, candidate: Floats, counts: Floats) -> PairedScores:
    """Of log-likelihoods of documents, each of so many words or bytes [documents], at least one."""
    both = np.concatenate([reference / counts, candidate / counts])
    if len(reference) < 2:  # there is no error to estimate
        moments = UnitMoments(float((reference - candidate).sum() / counts.sum()), 0.0, 0.0, 1)
    else:
        moments = moments_of(reference - candidate, counts)
    return PairedScores(moments, float(np.ptp(both)))


def plausible(count: int, share: float, *, least: int | None = None) -> NDArray[np.int64]:
    """All numbers of hits that matter, of `count` down to `least` trials with this probability."""
    reach = DEVIATIONS * (math.sqrt(count * share * (1.0 - share)) + DEVIATIONS)
    low = (count if least is None else least) * share - reach
    return np.arange(max(0, math.floor(low)), min(count, math.ceil(count * share + reach)) + 1)


def binomial(
    log_factorials: Floats, count: int | NDArray[np.int64], hits: NDArray[np.int64], share: float
) -> Floats:
    """P(hits of count), 0 where there are more hits than that; the two broadcast."""
    misses = np.maximum(count - hits, 0)
    logs = log_factorials[count] - log_factorials[hits] - log_factorials[misses]
    masses: Floats = np.exp(logs + hits * math.log(share) + misses * math.log1p(-share))
    return np.where(hits <= count, masses, 0.0)


def clopper_pearson_upper(hits: int, count: int, tail: float) -> float:
    """The share that so few hits of `count` leave possible: P(at most `hits`) is `tail` there."""
    if hits == count:
        return 1.0
    low, high = hits / count, 1.0
    for _ in range(2 * BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(hits, count, middle) > tail else (low, middle)
    return high


def binomial_tail(hits: int, count: int, share: float) -> float:
    """P(at most `hits` of `count`), each with probability `share`, above 0 and below 1."""
    odds, logarithm, total = math.log(share / (1.0 - share)), count * math.log1p(-share), 0.0
    for k in range(hits + 1):
        total += math.exp(logarithm)
        logarithm += math.log((count - k) / (k + 1)) + odds if k < count else 0.0
    return total
