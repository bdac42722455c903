"""Bounds of the drop of a score: against enumeration for answers, against the look of a claim otherwise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.measure.paired import PairedAnswers, PairedScores, pair_scores, pair_sums
from penjing.measure.skewed import ERROR_SPENT, moments_of

COUNT = 9


def outcomes(count: int) -> list[tuple[int, int]]:
    return [(lost, won) for lost in range(count + 1) for won in range(count + 1 - lost)]


def probability(lost: int, won: int, count: int, lost_share: float, won_share: float) -> float:
    equal = count - lost - won
    ways = math.factorial(count) / math.factorial(lost) / math.factorial(won) / math.factorial(equal)
    return ways * lost_share**lost * won_share**won * max(0.0, 1 - lost_share - won_share) ** equal


def test_the_bound_is_kept_whatever_the_truth_is() -> None:
    """Every outcome of 9 documents, under every pair of shares of a fine grid: missed in at most 5%."""
    upper = {outcome: PairedAnswers(COUNT, *outcome).upper(0.95) for outcome in outcomes(COUNT)}
    misses = [
        sum(
            probability(*outcome, COUNT, lost_share, won_share)
            for outcome, bound in upper.items()
            if bound < lost_share - won_share - 1e-9
        )
        for lost_share, won_share in itertools.product(np.linspace(0, 1, 21), repeat=2)
        if lost_share + won_share <= 1
    ]
    assert max(misses) <= 0.05
    assert max(misses) > 0.04  # nor is it bought with much caution


@given(st.integers(1, 30), st.data())
@settings(max_examples=12, deadline=None)
def test_more_losses_are_worse_and_more_wins_better(count: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, count - 1))
    won = data.draw(st.integers(0, count - 1 - lost))
    bound = PairedAnswers(count, lost, won).upper(0.95)
    assert bound >= (lost - won) / count
    assert PairedAnswers(count, lost + 1, won).upper(0.95) >= bound - 1e-5
    assert PairedAnswers(count, lost, won + 1).upper(0.95) <= bound + 1e-5


def test_where_no_answer_changed_the_bound_is_that_of_no_loss() -> None:
    """Clopper and Pearson's for 0 of n, within the little that is left out."""
    assert PairedAnswers(300, 0, 0).upper(0.95) == pytest.approx(1 - 0.05 ** (1 / 300), rel=0.01)


def test_with_many_documents_it_is_nearly_the_normal_bound() -> None:
    answers = PairedAnswers(2000, 44, 36)
    normal = answers.drop + 1.645 * math.sqrt((80 / 2000 - answers.drop**2) / 2000)
    assert normal < answers.upper(0.95) < normal + 0.001


def test_p_value_and_bound_agree() -> None:
    answers = PairedAnswers(200, 9, 4)
    upper = answers.upper(0.95)
    assert answers.p_value(upper) <= 0.05 < answers.p_value(upper - 1e-4)
    assert answers.p_value(0.0) > answers.p_value(0.05) > answers.p_value(0.2) > 0
    assert PairedAnswers(5, 5, 0).upper(0.95) == 1.0


def test_zeros_and_ones_are_answers() -> None:
    before, after = np.array([1.0, 1, 0, 0, 1]), np.array([1.0, 0, 1, 0, 0])
    assert pair_scores(before, after) == PairedAnswers(5, lost=2, won=1)


def test_other_scores_are_bounded_as_a_look_of_a_claim() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(50)
    after = before - 0.1 + generator.normal(0, 0.05, 50)
    found = pair_scores(before, after)
    assert isinstance(found, PairedScores)
    moments = moments_of(before - after, np.ones(50))
    assert found.drop == pytest.approx((before - after).mean())
    assert found.upper(0.95) == pytest.approx(moments.bounds(0.05 * ERROR_SPENT)[1])
    assert found.p_value(0.2) == pytest.approx(moments.p_value(0.2) / ERROR_SPENT)


def test_log_likelihoods_weigh_by_their_counts() -> None:
    counts = np.arange(1.0, 21)
    found = pair_sums(-2 * counts, -2.5 * counts - np.tile([0, 1], 10), counts)
    assert found.drop == pytest.approx(0.5 + 10 / counts.sum())


def test_no_difference_seen_is_not_no_difference() -> None:
    scores = np.linspace(0, 0.9, 40)
    found = pair_scores(scores, scores)
    upper = found.upper(0.95)
    assert upper == pytest.approx(0.9 * (1 - 0.05 ** (1 / 40)))
    assert found.p_value(upper) == pytest.approx(0.05)
    assert found.p_value(0.0) == 1.0


def test_few_documents_have_no_bound_but_of_answers() -> None:
    few = pair_scores(np.linspace(0, 1, 7), np.linspace(0, 0.9, 7))
    assert few.upper(0.95) is None
    assert few.p_value(1.0) == 1.0
    assert pair_scores(np.array([0.5]), np.array([0.25])).drop == 0.25
    assert PairedAnswers(7, 0, 0).upper(0.95) == pytest.approx(1 - 0.05 ** (1 / 7), abs=0.01)
