"""An upper confidence bound of the mean loss, from paired token losses that are correlated and heavy-tailed.

Tokens of one document depend on each other, so documents are the independent units. The mean over tokens is
a ratio of two document sums, R = sum(S_d) / sum(n_d), and its bound is a studentised bootstrap of documents
(Efron & Tibshirani, An Introduction to the Bootstrap, 1993, 12.5) with a jackknife standard error, and never
less than Student's t would give. docs/measurement.md reports its coverage beside that of the alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.errors import EmptyDataError
from penjing.measure.student import student_critical
from penjing.spec import Spec

Floats = NDArray[np.float64]
MIN_UNITS = 8
MIN_EFFECTIVE_DOCUMENTS = 4.0
MIN_BLOCK_TOKENS = 256  # short against it is the reach of a language model's correlated errors
MAX_BLOCKS = 64  # beyond this, longer blocks buy more than more blocks
RESAMPLES = 4000
MAX_DRAWS = 1 << 20  # indices drawn at a time


class LossBound(Spec):
    """The mean of paired token differences, and its one-sided upper bound at `confidence`; nats per token.

    unit: what was resampled, whole documents or contiguous blocks of tokens; `units` of them.
    """

    mean: float
    upper: float
    confidence: float
    standard_error: float
    unit: Literal["document", "block"]
    units: int
    tokens: int
    resamples: int
    seed: int


def upper_bound(
    documents: Sequence[Floats], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> LossBound:
    """Bound the token-weighted mean of `documents`: per document, the differences of its tokens [tokens].

    Where documents are too few, or one is a giant among dwarfs, contiguous blocks of tokens are the units.
    Raises EmptyDataError if there are fewer than 8 units either way.
    """
    assert 0.5 < confidence < 1.0
    unit, parts = choose_units(documents)
    sums = np.array([part.sum() for part in parts])
    counts = np.array([len(part) for part in parts], np.float64)
    mean = float(sums.sum() / counts.sum())
    error = jackknife_error(sums, counts)
    return LossBound(
        mean=mean,
        upper=mean + error * _critical_value(sums, counts, confidence, seed, resamples),
        confidence=confidence,
        standard_error=error,
        unit=unit,
        units=len(parts),
        tokens=int(counts.sum()),
        resamples=resamples,
        seed=seed,
    )


def choose_units(documents: Sequence[Floats]) -> tuple[Literal["document", "block"], list[Floats]]:
    """Documents if there are enough of them, else contiguous blocks cut from each.

    Raises EmptyDataError for fewer than 8 of either.
    """
    held = [document for document in documents if len(document)]
    counts = np.array([len(document) for document in held], np.float64)
    if documents_are_units(counts):
        return "document", held
    tokens = int(counts.sum())
    length = block_length(tokens)
    blocks = [block for document in held for block in cut_blocks(document, length)]
    if len(blocks) < MIN_UNITS:
        raise EmptyDataError(
            f"the text has {tokens} tokens to score, too few for a bound: give at least {MIN_UNITS} "
            f"documents of similar length, or {MIN_UNITS * MIN_BLOCK_TOKENS} tokens"
        )
    return "block", blocks


def documents_are_units(counts: Floats) -> bool:
    """Whether documents of so many tokens each [documents], none empty, are enough to be the units.

    Enough are 8, with an effective number (sum n)^2 / sum n^2 (Kish) of 4: one giant among dwarfs would set
    the mean by itself, agree with it perfectly, and claim no error at all.
    """
    return len(counts) >= MIN_UNITS and counts.sum() ** 2 / (counts**2).sum() >= MIN_EFFECTIVE_DOCUMENTS


def block_length(tokens: int) -> int:
    """How long the blocks of a text of so many tokens are at least, in tokens."""
    return max(MIN_BLOCK_TOKENS, math.ceil(tokens / MAX_BLOCKS))


def cut_blocks(document: Floats, length: int) -> list[Floats]:
    """Cut [tokens] into contiguous parts of nearly equal size, each at least `length` long if it can be."""
    return np.array_split(document, max(1, len(document) // length))


def jackknife_error(sums: Floats, counts: Floats) -> float:
    """Standard error of sum(sums) / sum(counts), leaving out one unit at a time."""
    units = len(sums)
    without = (sums.sum() - sums) / (counts.sum() - counts)
    return math.sqrt((units - 1) / units * float(((without - without.mean()) ** 2).sum()))


def _critical_value(sums: Floats, counts: Floats, confidence: float, seed: int, resamples: int) -> float:
    """Standard errors between the mean and its bound: the bootstrap's, but at least Student's."""
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, MAX_DRAWS // len(sums))
    ratios = [
        _studentised(
            sums, counts, generator.integers(0, len(sums), (min(rows, resamples - start), len(sums)))
        )
        for start in range(0, resamples, rows)
    ]
    lowest = np.quantile(np.concatenate(ratios), 1.0 - confidence, method="lower")
    return max(-float(lowest), student_critical(1.0 - confidence, len(sums) - 1))


def _studentised(sums: Floats, counts: Floats, chosen: NDArray[np.int64]) -> Floats:
    """(R* - R) / se* of each resample; `chosen` [resamples, units]. se* is the ratio's linearised error."""
    units = len(sums)
    mean = sums.sum() / counts.sum()
    sum_drawn, count_drawn = sums[chosen], counts[chosen]
    totals = count_drawn.sum(axis=1)
    means = sum_drawn.sum(axis=1) / totals
    residuals = sum_drawn - means[:, None] * count_drawn
    errors = np.sqrt(units / (units - 1) * (residuals**2).sum(axis=1)) / totals
    # A resample without spread says nothing about its error; it counts as no deviation if it has none.
    result: Floats = np.divide(means - mean, errors, out=np.zeros(len(means)), where=errors > 0)
    return result
