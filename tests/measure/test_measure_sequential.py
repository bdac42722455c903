"""Claims that may stop: error rates by simulation, bounds and p-values that agree, and when it looks."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from penjing.errors import EmptyDataError
from penjing.measure.sequential import SequentialBound, SequentialTest, looks_of
from penjing.measure.skewed import hall_inverse, hall_transform, moments_of
from penjing.measure.stats import jackknife_error
from penjing.measure.student import student_critical

sys.path.append(str(Path(__file__).parents[2] / "bench"))
import claims


def run(means: np.ndarray, margin: float, looks: tuple[int, ...]) -> SequentialBound:
    test = SequentialTest(margin, looks)
    for mean in means:
        bound = test.add(100 * mean, 100)
        if test.is_settled:
            break
    assert bound is not None
    return bound


@pytest.mark.parametrize("source", ["normal", "10% log-normal", "real"])
def test_errors_and_power_of_the_bench_at_reduced_size(source: str) -> None:
    """100 claims: false ones at most three standard errors above 6.6%; and there is power."""
    tally = claims.simulate(claims.SOURCES[source], 1.6, 100, seed=1)
    limit = 100 * (0.066 + 3 * math.sqrt(0.05 * 0.95 / 100))
    assert sum(tally.fixed["margin"]) <= limit
    assert tally.count("margin", "proved") <= limit
    assert tally.count("margin", "refuted") <= limit
    assert sum(tally.fixed["half"]) >= 75
    assert tally.count("half", "proved") >= 80
    assert tally.count("none", "proved") >= 95
    assert tally.count("twice", "refuted") >= 95
    for far in ("none", "twice"):
        assert np.mean(tally.used[far]) <= 0.6


def test_looks_are_a_quarter_a_half_all_and_twice() -> None:
    assert looks_of(100, 1000) == (25, 50, 100, 200)
    assert looks_of(100, 120) == (25, 50, 100, 120)
    assert looks_of(100, 30) == (25, 30)
    assert looks_of(10, 1000) == (8, 10, 20)
    assert looks_of(500, 9) == (9,)
    with pytest.raises(EmptyDataError, match="7 documents or blocks are too few"):
        looks_of(100, 7)


def test_far_from_the_margin_stops_at_the_first_look() -> None:
    noise = np.random.default_rng(0).normal(size=200) * 0.1
    looks = looks_of(100, 200)
    good, bad = run(noise, 1.0, looks), run(noise + 2, 1.0, looks)
    assert (good.verdict, good.units, good.look) == ("proved", 25, 1)
    assert (bad.verdict, bad.units, bad.look) == ("refuted", 25, 1)
    assert good.lower < good.mean < good.upper <= 1.0 < bad.lower < bad.mean
    assert good.tokens == 2500
    assert good.of_units == 200


def test_at_the_margin_it_runs_out_of_text() -> None:
    alternating = np.array([0.5, 1.5] * 100)
    bound = run(alternating, 1.0, looks_of(100, 200))
    assert (bound.verdict, bound.units, bound.look) == ("open", 200, 4)
    assert bound.mean == pytest.approx(1.0)


def test_the_first_answer_is_kept() -> None:
    test = SequentialTest(1.0, (8, 16))
    for _ in range(8):
        test.add(0.0, 10)
    assert test.is_settled
    with pytest.raises(AssertionError, match="settled"):
        test.add(50.0, 10)


def test_between_looks_nothing_is_said() -> None:
    test = SequentialTest(1.0, (8, 16))
    assert [test.add(10.0 * (n % 2 + 0.5), 10) for n in range(7)] == [None] * 7
    first = test.add(15.0, 10)
    assert first is not None
    assert test.add(0.0, 10) is first


@pytest.mark.parametrize("shift", [-1.0, -0.3, 0.0, 0.3, 1.0])
def test_a_p_value_is_the_level_at_which_the_bound_is_the_margin(shift: float) -> None:
    generator = np.random.default_rng(3)
    sums, counts = generator.exponential(1, 40) * 50 - 50, np.full(40, 50.0)
    sums += shift * counts
    moments = moments_of(sums, counts)
    for tail in (0.2, 0.05, 0.01):
        upper = moments.bounds(tail)[1]
        assert moments.p_value(upper) == pytest.approx(tail, rel=1e-6)
    one_look = SequentialTest(0.2 + shift, (40,))
    for total, count in zip(sums, counts, strict=True):
        bound = one_look.add(total, int(count))
    assert bound is not None
    assert (bound.p_value <= 0.05) == (bound.verdict == "proved")


def test_more_looks_are_wider_bounds() -> None:
    means = np.random.default_rng(0).normal(1, 1, 32)
    one, four = run(means, 1.0, (32,)), run(means, 1.0, (8, 16, 24, 32))
    assert one.units == four.units == 32
    assert one.upper < four.upper
    assert one.lower > four.lower


def test_a_long_tail_of_losses_raises_the_upper_bound_only() -> None:
    """Against Student's t; and the other way round for a long tail of gains, which hides nothing."""
    losses = np.random.default_rng(0).exponential(1, 60)
    counts = np.ones(60)
    reach = student_critical(0.05, 59) * jackknife_error(losses, counts)
    lower, upper = moments_of(losses, counts).bounds(0.05)
    assert upper > losses.mean() + 1.1 * reach
    assert lower == pytest.approx(losses.mean() - reach)
    assert moments_of(-losses, counts).bounds(0.05) == pytest.approx((-upper, -lower))


@pytest.mark.parametrize("skewness", [-4.0, -0.5, 0.0, 1e-9, 0.5, 4.0])
@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 2.0])
def test_halls_transform_and_its_inverse(skewness: float, t: float) -> None:
    assert hall_inverse(hall_transform(t, skewness, 20), skewness, 20) == pytest.approx(t, abs=1e-6)


def test_no_difference_is_settled_at_once() -> None:
    same = run(np.zeros(50), 0.01, looks_of(25, 50))
    assert (same.verdict, same.units, same.upper, same.p_value) == ("proved", 8, 0.0, 0.0)
    exactly = run(np.zeros(50), 0.0, looks_of(25, 50))
    assert exactly.verdict == "proved"
