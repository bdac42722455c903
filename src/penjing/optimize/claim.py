"""A claim on text that is scored only until the claim is settled: proved, refuted, or out of text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from penjing.data.splits import seeded_digest
from penjing.engine import Engine
from penjing.errors import EmptyDataError
from penjing.measure.quality import TokenQuality
from penjing.measure.sequential import SequentialBound, SequentialTest, looks_of
from penjing.measure.stats import MIN_UNITS, block_length, documents_are_units
from penjing.optimize.compare import compare_engines, count_scored
from penjing.optimize.documents import Tokens
from penjing.optimize.evaluate import Settings, check_same_tokenizer, windows_of
from penjing.optimize.progress import Progress, silent
from penjing.spec import Spec

Unit = list[Tokens]  # the windows of a document, or a few successive ones of it


class ClaimRecord(Spec):
    """What was claimed, what came of it, and on how much of the text.

    unit: what was drawn, in an order that `seed` decides. of_tokens: those of all the text at hand.
    """

    bound: SequentialBound
    unit: Literal["document", "block"]
    of_tokens: int
    seed: int


@dataclass(frozen=True)
class Claim:
    """The record, the quality of the tokens of each unit that was scored, and which of the units they are.

    order: numbers of units, in the order of scoring; a unit's number is its place in the text. of_units: how
    many there were.
    """

    record: ClaimRecord
    quality: list[TokenQuality]
    order: tuple[int, ...]
    of_units: int


def claim(
    candidate: Engine,
    reference: Engine,
    documents: Sequence[Tokens],
    margin: float | None,
    *,
    settings: Settings,
    units: int | None = None,
    progress: Progress = silent,
    stage: str = "claim",
) -> Claim:
    """Whether the mean loss is at most `margin` (nats per token), from no more text than it takes.

    margin: None asks for nothing but a bound, from all of the text, looked at once. units: what a claim of
    fixed size asks for (`measure.power.plan_claim`; None: half of what is at hand); twice as many are scored
    at most. Same text, seed and confidence: same claim, to the last bit, in whatever order the documents
    come. Raises EmptyDataError for fewer than 8 documents or blocks, TokenizerError if
    the sides do not share a tokenizer, NonFiniteLogitsError.
    """
    check_same_tokenizer(candidate.artifact, reference.artifact)
    unit, parts = units_of(windows_of(list(documents), candidate, settings))
    order = shuffled(parts, settings.seed)
    looks = (len(parts),) if margin is None else looks_of(units or (len(parts) + 1) // 2, len(parts))
    test = SequentialTest(-math.inf if margin is None else margin, looks, settings.confidence)
    most = count_scored([parts[index] for index in order[: looks[-1]]])
    tier = settings.tier or candidate.artifact.tiers[-1]
    quality: list[TokenQuality] = []
    done = 0
    while not test.is_settled:
        chosen = parts[order[len(quality)]]
        quality += compare_engines(reference, candidate, [chosen], tier, lambda *_: None)
        test.add(float(quality[-1].delta_nll.sum()), len(quality[-1].kl))
        done += len(quality[-1].kl)
        progress(stage, done, most)
    assert test.bound is not None
    record = ClaimRecord(bound=test.bound, unit=unit, of_tokens=count_scored(parts), seed=settings.seed)
    return Claim(record, quality, tuple(order[: len(quality)]), len(parts))


def units_of(windows: Sequence[Unit]) -> tuple[Literal["document", "block"], list[Unit]]:
    """Documents where there are enough of them, as for every bound; else runs of successive windows.

    Raises EmptyDataError for fewer than 8 of either.
    """
    held = [document for document in windows if count_scored([document])]
    counts = np.array([count_scored([document]) for document in held], np.float64)
    if documents_are_units(counts):
        return "document", held
    length = block_length(int(counts.sum()))
    runs = [run for document in held for run in runs_of(document, length)]
    if len(runs) < MIN_UNITS:
        raise EmptyDataError(
            f"the text has {int(counts.sum())} tokens to score, too few for a claim: give at least "
            f"{MIN_UNITS} documents of similar length, or {MIN_UNITS} windows of {length} tokens"
        )
    return "block", runs


def runs_of(document: Unit, length: int) -> list[Unit]:
    """A document's windows in successive runs of at least `length` scored tokens; the rest joins the last."""
    runs: list[Unit] = [[]]
    for window in document:
        if count_scored([runs[-1]]) >= length:
            runs.append([])
        runs[-1].append(window)
    if len(runs) > 1 and count_scored([runs[-1]]) < length:
        last = runs.pop()
        runs[-1] += last
    return runs


def shuffled(parts: Sequence[Unit], seed: int) -> list[int]:
    """An order of units that depends on the seed and on their tokens only."""

    def place(index: int) -> bytes:
        tokens = np.array([token for window in parts[index] for token in window], "<u4")
        return seeded_digest(hashlib.sha256(tokens.tobytes()).hexdigest(), seed)

    return sorted(range(len(parts)), key=place)
