"""Bounds: coverage by simulation, determinism, choice of units, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from penjing.errors import EmptyDataError
from penjing.measure.stats import choose_units, jackknife_error, upper_bound

TRUE_LOSS = 0.01


def text_losses(
    generator: np.random.Generator, documents: int, effects: str, mean_tokens: int = 60
) -> list[np.ndarray]:
    """Documents of uneven length whose token differences have heavy tails, correlate, and share an effect."""
    lengths = np.maximum(3, generator.lognormal(np.log(mean_tokens), 0.8, documents)).astype(int)
    shared = {
        "none": lambda: np.zeros(documents),
        "heavy": lambda: generator.standard_t(3, documents) * 0.03,
        "skewed": lambda: (generator.exponential(1, documents) - 1) * 0.05,
    }[effects]()
    kernel = 0.8 ** np.arange(20)
    return [
        TRUE_LOSS + effect + np.convolve(generator.standard_t(3, length) * 0.2, kernel)[:length]
        for effect, length in zip(shared, lengths, strict=True)
    ]


@pytest.mark.parametrize("effects", ["none", "heavy", "skewed"])
@pytest.mark.parametrize("documents", [10, 40])
def test_nominal_95_percent_covers(effects: str, documents: int) -> None:
    """At least 93% of bounds lie above the truth (400 texts; one standard error is 1.1 points)."""
    generator = np.random.default_rng([documents, len(effects)])
    covered = [
        upper_bound(text_losses(generator, documents, effects), seed=trial, resamples=500).upper >= TRUE_LOSS
        for trial in range(400)
    ]
    assert np.mean(covered) >= 0.93


def test_blocks_of_one_long_document_cover() -> None:
    generator = np.random.default_rng(7)
    kernel = 0.9 ** np.arange(60)
    covered = []
    for trial in range(300):
        noise = np.convolve(generator.standard_t(3, 12_000) * 0.2, kernel)[:12_000]
        bound = upper_bound([TRUE_LOSS + noise], seed=trial, resamples=500)
        assert bound.unit == "block"
        covered.append(bound.upper >= TRUE_LOSS)
    assert np.mean(covered) >= 0.93


def test_tokens_as_units_would_not_cover() -> None:
    """Why documents: treating correlated tokens as independent claims far too much."""
    generator = np.random.default_rng(11)
    covered = []
    for _ in range(300):
        tokens = np.concatenate(text_losses(generator, 40, "heavy"))
        naive = tokens.mean() + 1.645 * tokens.std() / np.sqrt(len(tokens))
        covered.append(naive >= TRUE_LOSS)
    assert np.mean(covered) < 0.85


def test_the_mean_weighs_tokens_alike() -> None:
    documents = [np.full(10 * (index + 1), float(index)) for index in range(10)]
    bound = upper_bound(documents)
    assert bound.mean == pytest.approx(np.concatenate(documents).mean())
    assert (bound.unit, bound.units, bound.tokens) == ("document", 10, 550)


def test_same_seed_same_bound() -> None:
    documents = text_losses(np.random.default_rng(0), 20, "skewed")
    assert upper_bound(documents, seed=3) == upper_bound(documents, seed=3)
    assert upper_bound(documents, seed=3).upper == pytest.approx(
        upper_bound(documents, seed=4).upper, rel=0.1
    )


def test_more_confidence_is_a_higher_bound() -> None:
    documents = text_losses(np.random.default_rng(0), 20, "heavy")
    bounds = [upper_bound(documents, confidence=level).upper for level in (0.9, 0.95, 0.99)]
    assert bounds == sorted(bounds)


def test_no_difference_is_bounded_by_zero() -> None:
    assert upper_bound([np.zeros(5)] * 9).upper == 0.0


def test_a_giant_among_dwarfs_is_cut_into_blocks() -> None:
    generator = np.random.default_rng(0)
    documents = [generator.normal(size=20_000)] + [generator.normal(size=10) for _ in range(20)]
    unit, parts = choose_units(documents)
    assert unit == "block"
    assert sum(len(part) for part in parts) == 20_200
    assert upper_bound(documents).standard_error > 0.003


def test_too_little_text_is_refused() -> None:
    with pytest.raises(EmptyDataError, match="900 tokens to score, too few for a bound"):
        upper_bound([np.zeros(450), np.zeros(450)])
    with pytest.raises(EmptyDataError, match="0 tokens"):
        upper_bound([])


def test_jackknife_matches_the_plain_formula_for_equal_units() -> None:
    sums = np.random.default_rng(0).normal(size=30)
    assert jackknife_error(sums, np.ones(30)) == pytest.approx(sums.std(ddof=1) / np.sqrt(30))
