"""Scores of two sides, paired by document, and the claims that hold together."""

from __future__ import annotations

import math

import pytest

from penjing.measure.paired import PairedAnswers
from penjing.optimize.task_claims import MetricScores, TaskScores, compare_tasks, pair

RIGHT = dict.fromkeys(range(400), 1.0)


def metric(values: dict[int, object], *, kind: str = "mean", higher: bool | None = True) -> MetricScores:
    return MetricScores("acc", "none", kind, higher, 0.0, values)


def task(name: str, values: dict[int, object], *others: MetricScores) -> TaskScores:
    return TaskScores(name, 0, len(values), (*others, metric(values)))


def worse_by(lost: int) -> dict[int, object]:
    return RIGHT | dict.fromkeys(range(lost), 0.0)


def test_answers_are_paired_by_document() -> None:
    assert pair(metric(RIGHT), metric(worse_by(3))) == PairedAnswers(400, 3, 0)
    shuffled = dict(reversed(worse_by(3).items()))
    assert pair(metric(RIGHT), metric(shuffled)) == PairedAnswers(400, 3, 0)
    assert pair(metric(RIGHT), metric({1: 1.0, 2: 0.0})) == PairedAnswers(2, 1, 0), "of both sides only"


def test_lower_may_be_better() -> None:
    errors = metric(worse_by(3), higher=False), metric(RIGHT, higher=False)
    assert pair(*errors) == PairedAnswers(400, 3, 0)


def test_perplexities_are_compared_by_their_logarithms() -> None:
    before = {number: (-10.0 - number, 5) for number in range(20)}
    after = {number: (-11.0 - number, 5) for number in range(20)}
    found = pair(metric(before, kind="weighted_perplexity"), metric(after, kind="weighted_perplexity"))
    assert found is not None
    assert found.drop == pytest.approx(0.2)
    bits = pair(metric(before, kind="bits_per_byte"), metric(after, kind="bits_per_byte"))
    assert bits is not None
    assert bits.drop == pytest.approx(0.2 / math.log(2))
    plain = {number: -2.0 - number % 2 for number in range(20)}
    worse = {number: value - 0.5 for number, value in plain.items()}
    single = pair(metric(plain, kind="perplexity"), metric(worse, kind="perplexity"))
    assert single is not None
    assert single.drop == pytest.approx(0.5)


def test_what_is_no_average_has_no_bound() -> None:
    assert pair(metric({0: (1, 0)}, kind="f1_score"), metric({0: (1, 1)}, kind="f1_score")) is None
    assert pair(metric({0: [1, 2]}), metric({0: [1, 2]})) is None
    assert pair(metric(RIGHT, higher=None), metric(RIGHT, higher=None)) is None


def test_claims_are_corrected_for_how_many_they_are() -> None:
    """Alone, the second claim would be proved; beside the third, which fails, it is not."""
    lost = {"a": 0, "b": 3, "c": 9}
    before = [task(name, RIGHT) for name in lost]
    after = [task(name, worse_by(count)) for name, count in lost.items()]
    together = {change.task: change.claim for change in compare_tasks(before, after, max_drop=0.02)}
    (alone,) = compare_tasks(before[1:2], after[1:2], max_drop=0.02)
    assert alone.claim is not None
    assert alone.claim.proved
    assert [claim is not None and claim.proved for claim in together.values()] == [True, False, False]
    b = together["b"]
    assert b is not None
    assert b.p_value == alone.claim.p_value
    assert b.adjusted_p_value == pytest.approx(2 * b.p_value)


def test_a_claim_rests_on_the_first_metric_with_a_bound() -> None:
    whole = MetricScores("f1", "none", "f1_score", True, 0.5, {0: (1, 1)})
    (change,) = compare_tasks(
        [task("a", RIGHT, whole)], [task("a", worse_by(0), whole)], max_drop=0.01, confidence=0.9
    )
    assert [found.bound is None for found in change.metrics] == [True, False]
    assert change.claim is not None
    assert (change.claim.metric, change.claim.proved) == ("acc", True)
    (silent,) = compare_tasks(
        [TaskScores("a", 0, 1, (whole,))], [TaskScores("a", 0, 1, (whole,))], max_drop=0.01
    )
    assert silent.claim is None
    (unasked,) = compare_tasks([task("a", RIGHT)], [task("a", RIGHT)])
    assert unasked.claim is None


def test_a_perplexity_may_rise_by_a_share_of_itself() -> None:
    values = dict.fromkeys(range(30), -1.0)
    scores = [TaskScores("a", 0, 30, (metric(values, kind="perplexity", higher=False),))]
    (change,) = compare_tasks(scores, scores, max_drop=0.02)
    assert change.claim is not None
    assert change.claim.margin == pytest.approx(math.log(1.02))
