"""Runs two engines over the same windows, in step, and compares their logits token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penjing.measure.quality import TokenQuality, compare_streams, token_nll
from penjing.optimize.documents import Tokens
from penjing.spec import Tier

ROWS_PER_STEP = 256
Windows = Sequence[Sequence[Tokens]]  # [documents][windows]
Advance = Callable[[int, int], None]  # (tokens scored, tokens in all)


class LogitsSource(Protocol):
    """What comparison needs of an engine."""

    def logits(
        self, tokens: Sequence[int], tier: Tier | None = None, rows_per_step: int = ROWS_PER_STEP
    ) -> Iterator[NDArray[np.float32]]:
        """Every token's logits, in order, in chunks float32 [rows, vocab_size]."""


def compare_engines(
    reference: LogitsSource, candidate: LogitsSource, windows: Windows, tier: Tier | None, advance: Advance
) -> list[TokenQuality]:
    """The quality of each document's tokens; memory is two chunks of logits.

    Raises NonFiniteLogitsError if either side produces NaN or Inf.
    """
    total, done = count_scored(windows), 0
    results = []
    for document in windows:
        results.append(compare_streams(paired_logits(reference, candidate, document, tier)))
        done += len(results[-1].kl)
        advance(done, total)
    return results


def paired_logits(
    reference: LogitsSource, candidate: LogitsSource, document: Sequence[Tokens], tier: Tier | None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]]:
    """(reference logits, candidate logits, tokens that came) for successive rows of a document's windows."""
    for window in document:
        targets = np.asarray(window[1:], np.int64)
        sides = zip(reference.logits(window[:-1]), candidate.logits(window[:-1], tier), strict=True)
        start = 0
        for one, other in sides:
            yield one, other, targets[start : start + len(one)]
            start += len(one)


def score_engine(
    engine: LogitsSource, windows: Windows, tier: Tier | None, advance: Advance
) -> list[NDArray[np.float64]]:
    """NLL of each document's scored tokens under one engine alone; nats, float64 [tokens]."""
    total, done = count_scored(windows), 0
    results = []
    for document in windows:
        parts = [np.zeros(0)]
        for window in document:
            targets = np.asarray(window[1:], np.int64)
            for logits in engine.logits(window[:-1], tier):
                parts.append(token_nll(logits, targets[: len(logits)]))
                targets = targets[len(logits) :]
        results.append(np.concatenate(parts))
        done += len(results[-1])
        advance(done, total)
    return results


def count_scored(windows: Windows) -> int:
    """Tokens that have a prediction: all but the first of each window."""
    return sum(len(window) - 1 for document in windows for window in document)
