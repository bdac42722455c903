"""Token comparisons against plain formulas, and the corners where careless formulas fail."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from penjing.errors import NonFiniteLogitsError
from penjing.measure.quality import (
    MAX_WORK_ELEMENTS,
    compare_logits,
    compare_streams,
    log_softmax,
    summarize,
    token_nll,
)


def random_logits(rows: int, vocab: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, vocab)) * 3).astype(np.float32)


def test_agrees_with_the_definition() -> None:
    reference, candidate = random_logits(7, 11), random_logits(7, 11, seed=1)
    targets = np.arange(7)
    p = np.exp(reference.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    q = np.exp(candidate.astype(np.float64))
    q /= q.sum(1, keepdims=True)
    result = compare_logits(reference, candidate, targets)
    np.testing.assert_allclose(result.reference_nll, -np.log(p[np.arange(7), targets]), rtol=1e-12)
    np.testing.assert_allclose(result.candidate_nll, -np.log(q[np.arange(7), targets]), rtol=1e-12)
    np.testing.assert_allclose(result.kl, (p * np.log(p / q)).sum(1), rtol=1e-10)
    np.testing.assert_array_equal(result.agree, p.argmax(1) == q.argmax(1))
    np.testing.assert_allclose(result.delta_nll, result.candidate_nll - result.reference_nll)


def test_equal_sides_differ_by_nothing() -> None:
    logits = random_logits(5, 1000)
    summary = summarize(compare_logits(logits, logits.copy(), np.zeros(5, np.int64)))
    assert (summary.mean_delta_nll, summary.mean_kl, summary.max_kl) == (0.0, 0.0, 0.0)
    assert summary.top1_agreement == 1.0
    assert summary.reference_perplexity == summary.candidate_perplexity


def test_a_constant_added_to_logits_changes_little() -> None:
    """Softmax is invariant to it; logits of 10,000 overflow exp, and float32 sums would lose digits."""
    logits = random_logits(5, 64)
    shifted = (logits + np.float32(8192)).astype(np.float32)
    exact = shifted - np.float32(8192)
    result = compare_logits(exact, shifted, np.zeros(5, np.int64))
    np.testing.assert_allclose(result.delta_nll, 0, atol=1e-11)
    np.testing.assert_allclose(result.kl, 0, atol=1e-11)


def test_probabilities_that_underflow_add_nothing() -> None:
    reference = np.array([[0, -5000, -5000]], np.float32)
    result = compare_logits(reference, np.zeros((1, 3), np.float32), np.array([1]))
    assert result.kl[0] == pytest.approx(math.log(3))
    assert result.reference_nll[0] == pytest.approx(5000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_logits_are_refused(bad: float) -> None:
    broken = random_logits(3, 4)
    broken[1, 2] = bad
    with pytest.raises(NonFiniteLogitsError, match="NaN or Inf"):
        compare_logits(random_logits(3, 4), broken, np.zeros(3, np.int64))


def test_chunks_do_not_matter() -> None:
    reference, candidate, targets = random_logits(50, 40), random_logits(50, 40, seed=1), np.arange(50) % 40
    whole = compare_logits(reference, candidate, targets)
    cuts = [slice(0, 1), slice(1, 30), slice(30, 50)]
    parts = compare_streams((reference[cut], candidate[cut], targets[cut]) for cut in cuts)
    for name in ("reference_nll", "candidate_nll", "kl", "agree"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    np.testing.assert_array_equal(token_nll(candidate, targets), whole.candidate_nll)


def test_memory_is_bounded_by_the_chunk() -> None:
    """A chunk far larger than the working size needs a few temporaries of that size, not of its own."""
    rows, vocab = 6 * MAX_WORK_ELEMENTS // 4096, 4096
    reference = np.zeros((rows, vocab), np.float32)
    tracemalloc.start()
    compare_logits(reference, reference, np.zeros(rows, np.int64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * MAX_WORK_ELEMENTS * 8


def test_log_softmax_sums_to_one() -> None:
    np.testing.assert_allclose(np.exp(log_softmax(random_logits(4, 50000))).sum(1), 1.0, rtol=1e-12)
