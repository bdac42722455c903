"""The compiled sampler against numpy: the same tokens from the same rows, whatever the options."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
import sampling_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.engine import Sampling
from penjing.engine.sampling import ChoiceRequest, Sampler
from penjing.kernels import available_isas, default_isa

LARGE_VOCABULARY = 151_936
SAMPLER = Sampler(1, default_isa())


def check_row(logits: np.ndarray, samplings: list[Sampling], tokens: list[int]) -> None:
    """Every sampling's choice and log-probabilities are the oracle's."""
    history = array("i", tokens)
    choices = SAMPLER.choose(
        logits[None], [ChoiceRequest(0, sampling.options(), history) for sampling in samplings]
    )
    for sampling, choice in zip(samplings, choices, strict=True):
        assert choice.token == oracle.choose(logits, sampling, tokens), sampling
        if sampling.logprobs is not None:
            logprob, alternatives = oracle.log_probabilities(logits, choice.token, sampling.logprobs)
            assert choice.log_probability == pytest.approx(logprob, abs=3e-6)
            assert [token for token, _ in choice.alternatives] == [token for token, _ in alternatives]
            values = [value for _, value in alternatives]
            assert [value for _, value in choice.alternatives] == pytest.approx(values, abs=3e-6)


def random_sampling(generator: np.random.Generator, vocab_size: int, spread: float) -> Sampling:
    """Each option on or off, at ordinary and at extreme values.

    Weights are whole 2^-44ths of the largest: what differs by less is equal for top_p, and no test's concern.
    """
    hottest = 1e6 if spread >= 1 else 40
    biased = generator.integers(0, vocab_size, generator.choice([0, 0, 3]))
    return Sampling(
        temperature=float(generator.choice([0, 1e-6, 0.05, 0.7, 1, 1.9, 40, hottest])),
        top_k=int(generator.choice([0, 0, 1, 2, 20, 64, 1000, vocab_size - 1, vocab_size, 10**12])),
        top_p=float(generator.choice([1, 1, 0.999, 0.9, 0.5, 0.01, 1e-9])),
        min_p=float(generator.choice([0, 0, 0.001, 0.05, 0.5])),
        repetition_penalty=float(generator.choice([1, 1, 1.3, 0.7])),
        seed=int(generator.integers(0, 2**63)),
        logit_bias={int(token): float(generator.normal(0, 10)) for token in biased},
        logprobs=generator.choice(np.array([None, 0, 1, 20])),
    )


@pytest.mark.parametrize("vocab_size", [1, 2, 63, 64, 65, 500, 5000])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 4.0, 30.0])
def test_tokens_are_the_oracle_s(vocab_size: int, spread: float) -> None:
    generator = np.random.default_rng(vocab_size)
    for _ in range(12):
        logits = (generator.standard_normal(vocab_size) * spread).astype(np.float32)
        logits[generator.random(vocab_size) < generator.choice([0, 0.3, 0.99])] = -np.inf
        logits[generator.integers(vocab_size)] = spread
        tokens = generator.integers(0, vocab_size, 40).tolist()
        check_row(logits, [random_sampling(generator, vocab_size, spread) for _ in range(10)], tokens)


def test_a_large_vocabulary() -> None:
    generator = np.random.default_rng(5)
    for spread in (2.0, 5.0):
        logits = (generator.standard_normal(LARGE_VOCABULARY) * spread).astype(np.float32)
        samplings = [random_sampling(generator, LARGE_VOCABULARY, spread) for _ in range(12)]
        check_row(logits, samplings, generator.integers(0, LARGE_VOCABULARY, 3000).tolist())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, 2.0, -np.inf]), min_size=1, max_size=300),
    st.integers(0, 300),
    st.sampled_from([1.0, 0.75, 0.5, 0.3, 0.25, 0.1]),
    st.integers(0, 2**32),
)
def test_ties_go_to_the_lowest_token(values: list[float], top_k: int, top_p: float, seed: int) -> None:
    """Few distinct logits, so that every border runs through equals; at 1e-6 only the likeliest have weight,
    and sums are exact in both ways of computing."""
    logits = np.array([*values, 2.0], np.float32)
    options: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "seed": seed, "logprobs": 20}
    check_row(logits, [Sampling(temperature=1e-6, **options), Sampling(**options)], [])


def test_a_row_of_equals_is_cut_exactly() -> None:
    logits = np.zeros(LARGE_VOCABULARY, np.float32)
    samplings = [
        Sampling(temperature=0.8, top_p=top_p, top_k=top_k, seed=seed)
        for top_p in (1.0, 0.5, 0.3, 1e-9)
        for top_k in (0, 1, 70_000)
        for seed in (1, 2)
    ]
    check_row(logits, samplings, [])


def test_results_depend_on_nothing_else() -> None:
    """Neither on threads, nor on what else is in the call, nor on the instruction set."""
    generator = np.random.default_rng(9)
    logits = (generator.standard_normal((12, 60_000)) * 3).astype(np.float32)
    requests = [
        ChoiceRequest(row, random_sampling(generator, 60_000, 3.0).options(), array("i", range(row * 100)))
        for row in generator.integers(0, 12, 40).tolist()
    ]

    def results(sampler: Sampler, part: list[ChoiceRequest]) -> list[object]:
        choices = sampler.choose(logits, part)
        return [(choice.token, choice.log_probability, choice.alternatives) for choice in choices]

    expected = [results(SAMPLER, [request])[0] for request in requests]
    for isa in available_isas():
        for threads in (1, 3):
            sampler = Sampler(threads, isa)
            assert results(sampler, requests) == expected
            np.testing.assert_array_equal(
                sampler.log_normalizers(logits), SAMPLER.log_normalizers(logits[:, :])
            )


def test_the_caller_s_logits_stay_as_they_are() -> None:
    logits = np.random.default_rng(3).standard_normal((1, 200)).astype(np.float32)
    before = logits.copy()
    sampling = Sampling(temperature=1.0, repetition_penalty=2.0, logit_bias={3: 9.0}, top_p=0.5)
    SAMPLER.choose(logits, [ChoiceRequest(0, sampling.options(), array("i", [1, 2, 2]))])
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("magnitude", [0.0, 1.0, 30.0, 3e38])
def test_normalizers(magnitude: float) -> None:
    logits = np.random.default_rng(1).uniform(-magnitude, magnitude, (5, 3000)).astype(np.float32)
    exact = logits.astype(np.longdouble)
    largest = exact.max(1)
    expected = largest + np.log(np.exp(exact - largest[:, None]).sum(1))
    np.testing.assert_allclose(
        SAMPLER.log_normalizers(logits), expected.astype(np.float64), rtol=0, atol=1e-11 * max(1, magnitude)
    )


@pytest.mark.parametrize(
    ("row", "sampling", "tokens", "complaint"),
    [
        (2, Sampling(), [], "row 2"),
        (-1, Sampling(), [], "row -1"),
        (0, Sampling(logit_bias={50: 1.0}), [], "token 50"),
        (0, Sampling(repetition_penalty=2.0), [3, 50], "token 50"),
        (0, Sampling(repetition_penalty=2.0), [-1], "token -1"),
    ],
)
def test_what_is_out_of_range_is_refused(
    row: int, sampling: Sampling, tokens: list[int], complaint: str
) -> None:
    request = ChoiceRequest(row, sampling.options(), array("i", tokens))
    with pytest.raises(ValueError, match=complaint):
        SAMPLER.choose(np.zeros((2, 50), np.float32), [request])
