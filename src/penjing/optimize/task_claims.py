"""Task scores before and after: how far each dropped at most, and which claims about that hold together.

Every task gives its scores document by document, so that both sides are compared on the same documents. A
task's claim, "it dropped by at most so much", rests on its first metric that has a bound; Holm's correction
sees to it that all claims proved are true together at the stated confidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.measure.holm import adjust
from penjing.measure.paired import PairedAnswers, PairedScores, pair_scores, pair_sums
from penjing.optimize.evaluation import Host
from penjing.spec import Spec, Tier

Paired = PairedAnswers | PairedScores
LOG_UNITS = {"perplexity": 1.0, "weighted_perplexity": 1.0, "bits_per_byte": math.log(2)}  # nats of a unit


@dataclass(frozen=True)
class MetricScores:
    """One metric of one side. value: as the harness aggregates it. by_document: what it is aggregated from.

    aggregation: the name of the harness's function. higher_is_better: None where the task does not say.
    """

    metric: str
    filter: str
    aggregation: str
    higher_is_better: bool | None
    value: float
    by_document: Mapping[int, object]


@dataclass(frozen=True)
class TaskScores:
    """One side's scores of one task; its metrics in the task's order."""

    task: str
    few_shot: int
    documents: int
    metrics: tuple[MetricScores, ...]


class DropBound(Spec):
    """The mean drop over documents (above 0 is worse) and its upper bound at `confidence`, each by itself.

    In units of the metric; for a perplexity, of its natural logarithm. exact: of right and wrong answers,
    `lost` and `won` by the candidate. upper: None where there are too few documents.
    """

    method: Literal["exact", "skew-aware"]
    documents: int
    drop: float
    upper: float | None
    confidence: float
    lost: int | None = None
    won: int | None = None


class MetricChange(Spec):
    """A metric of both sides; bound: None unless it is an average over documents."""

    metric: str
    filter: str
    reference: float
    candidate: float
    bound: DropBound | None


class TaskClaim(Spec):
    """That `metric` dropped by at most `margin`, in the units of its bound.

    adjusted_p_value: for being one of several claims. proved: together with all others that are.
    """

    metric: str
    margin: float
    p_value: float
    adjusted_p_value: float
    proved: bool


class TaskChange(Spec):
    """One task of both sides. claim: None if none was asked for, or no metric has a bound."""

    task: str
    few_shot: int
    documents: int
    metrics: tuple[MetricChange, ...]
    claim: TaskClaim | None = None


class TaskSide(Spec):
    """Who answered."""

    name: str
    artifact_hash: str
    tier: Tier
    tensor_bytes: int


class TaskEvaluation(Spec):
    """What tasks found. requests: to each side; `shortened` of them at their beginning, to fit."""

    candidate: TaskSide
    reference: TaskSide
    tasks: tuple[TaskChange, ...]
    confidence: float
    max_drop: float | None
    harness: str
    requests: int
    shortened: int
    host: Host


def compare_tasks(
    reference: Sequence[TaskScores],
    candidate: Sequence[TaskScores],
    *,
    max_drop: float | None = None,
    confidence: float = 0.95,
) -> tuple[TaskChange, ...]:
    """The change of every task, and with `max_drop` the claims, corrected for how many they are."""
    changes, first = [], {}
    for before, after in zip(reference, candidate, strict=True):
        assert before.task == after.task
        pairs = [pair(one, other) for one, other in zip(before.metrics, after.metrics, strict=True)]
        changes.append(change_of(before, after, pairs, confidence))
        bounded = [index for index, found in enumerate(pairs) if found is not None]
        if bounded:
            first[before.task] = (before.metrics[bounded[0]], pairs[bounded[0]])
    if max_drop is None:
        return tuple(changes)
    claims = claims_of(first, max_drop, confidence)
    return tuple(change.model_copy(update={"claim": claims.get(change.task)}) for change in changes)


def claims_of(
    first: Mapping[str, tuple[MetricScores, Paired | None]], max_drop: float, confidence: float
) -> dict[str, TaskClaim]:
    """A claim for each task, by the metric that it rests on."""
    margins = {task: margin_of(scores, max_drop) for task, (scores, _) in first.items()}
    p_values = {task: paired.p_value(margins[task]) for task, (_, paired) in first.items() if paired}
    adjusted = adjust(p_values)
    return {
        task: TaskClaim(
            metric=scores.metric,
            margin=margins[task],
            p_value=p_values[task],
            adjusted_p_value=adjusted[task],
            proved=adjusted[task] <= 1.0 - confidence,
        )
        for task, (scores, _) in first.items()
    }


def margin_of(scores: MetricScores, max_drop: float) -> float:
    """The allowed drop in the units of the bound: a perplexity may rise by that share of itself."""
    return math.log1p(max_drop) if scores.aggregation.endswith("perplexity") else max_drop


def change_of(
    before: TaskScores, after: TaskScores, pairs: Sequence[Paired | None], confidence: float
) -> TaskChange:
    """One task of both sides, without a claim."""
    return TaskChange(
        task=before.task,
        few_shot=before.few_shot,
        documents=before.documents,
        metrics=tuple(
            MetricChange(
                metric=one.metric,
                filter=one.filter,
                reference=one.value,
                candidate=other.value,
                bound=None if paired is None else bound_of(paired, confidence),
            )
            for one, other, paired in zip(before.metrics, after.metrics, pairs, strict=True)
        ),
    )


def bound_of(paired: Paired, confidence: float) -> DropBound:
    """The bound of one metric."""
    is_exact = isinstance(paired, PairedAnswers)
    return DropBound(
        method="exact" if is_exact else "skew-aware",
        documents=paired.documents,
        drop=paired.drop,
        upper=paired.upper(confidence),
        confidence=confidence,
        lost=paired.lost if isinstance(paired, PairedAnswers) else None,
        won=paired.won if isinstance(paired, PairedAnswers) else None,
    )


def pair(reference: MetricScores, candidate: MetricScores) -> Paired | None:
    """Both sides document by document; None for what is no average over documents, as F1 of a whole set."""
    shared = [document for document in reference.by_document if document in candidate.by_document]
    sides = [[scores.by_document[document] for document in shared] for scores in (reference, candidate)]
    if not shared:
        return None
    if reference.aggregation == "mean" and reference.higher_is_better is not None:
        if not all(isinstance(value, Real) for side in sides for value in side):
            return None
        before, after = (np.array(side, np.float64) for side in sides)
        return pair_scores(before, after) if reference.higher_is_better else pair_scores(after, before)
    if reference.aggregation in LOG_UNITS:
        (before, counts), (after, _) = (log_likelihoods(side) for side in sides)
        unit = LOG_UNITS[reference.aggregation]
        return pair_sums(before / unit, after / unit, counts)
    return None


def log_likelihoods(values: Sequence[object]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of (log-likelihood, words or bytes) each, or of log-likelihoods that count as one."""
    rows = np.array([value if isinstance(value, tuple) else (value, 1.0) for value in values], np.float64)
    return rows[:, 0], rows[:, 1]
