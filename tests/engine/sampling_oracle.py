"""What choosing a token means, in numpy and in so many words: the compiled sampler is tested against it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from penjing.engine import Sampling
from penjing.engine.sampling import MASK64


def choose(logits: NDArray[np.float32], sampling: Sampling, tokens: Sequence[int]) -> int:
    """The next token after `tokens` (prompt and answer so far), from its logits [vocab_size].

    The logits are left as they are. They may hold -Inf (a token that is ruled out), not NaN or +Inf.
    """
    if sampling.logit_bias or sampling.repetition_penalty != 1:
        logits = logits.copy()
        add_bias(logits, sampling.logit_bias)
        penalize_repetition(logits, sampling.repetition_penalty, tokens)
    if sampling.temperature == 0:
        return int(np.argmax(logits))  # the first of equals
    return draw(filtered_weights(logits, sampling), uniform(sampling.seed, len(tokens)))


def filtered_weights(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """Unnormalized probabilities [vocab_size], zero for tokens that a filter drops."""
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / sampling.temperature)
    if sampling.top_k:
        weights = only(weights, keep_top_k(logits, sampling.top_k))
    if sampling.top_p < 1:
        weights = only(weights, keep_top_p(weights, sampling.top_p))
    if sampling.min_p:
        weights[weights < sampling.min_p * weights.max()] = 0
    return weights


def only(weights: NDArray[np.float64], kept: NDArray[np.int64]) -> NDArray[np.float64]:
    """Zero but for these tokens."""
    result = np.zeros_like(weights)
    result[kept] = weights[kept]
    return result


def draw(weights: NDArray[np.float64], number: float) -> int:
    """The token at a point of the cumulative distribution, `number` being in [0, 1)."""
    tokens = np.flatnonzero(weights)
    cumulative = np.cumsum(weights[tokens])
    place = np.searchsorted(cumulative, number * cumulative[-1], side="right")
    return int(tokens[min(int(place), len(tokens) - 1)])  # the product may round up to the total


def add_bias(logits: NDArray[np.float32], bias: Mapping[int, float]) -> None:
    """In place. The engine has refused tokens outside the vocabulary."""
    for token, value in bias.items():
        logits[token] += np.float32(value)


def penalize_repetition(logits: NDArray[np.float32], penalty: float, tokens: Sequence[int]) -> None:
    """In place, once for each token that occurs in `tokens`."""
    if penalty != 1:
        seen = np.unique(np.asarray(tokens, np.int64))
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / np.float32(penalty), values * np.float32(penalty))


def keep_top_k(logits: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Ids of the k largest logits, ascending; among equals at the border, the lowest ids."""
    if top_k >= len(logits):
        return np.arange(len(logits))
    border = np.partition(logits, -top_k)[-top_k]
    above = np.flatnonzero(logits > border)
    equal = np.flatnonzero(logits == border)[: top_k - len(above)]
    return np.sort(np.concatenate([above, equal]))


def keep_top_p(weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indices, ascending, of the smallest set of largest weights that reaches top_p of their sum.

    All weights below (1 - top_p) / n of the sum n are together below 1 - top_p of it, so the set is found
    without them: only a fraction of a large vocabulary is sorted.
    """
    total = weights.sum()
    candidates = np.flatnonzero(weights >= total * (1 - top_p) / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    reached = np.searchsorted(np.cumsum(weights[order]), total * top_p, side="left")
    return np.sort(order[: int(reached) + 1])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), a function of its arguments alone: splitmix64 (Steele et al. 2014) at a counter."""
    state = (mix64(seed) + (position + 1) * 0x9E3779B97F4A7C15) & MASK64
    return (mix64(state) >> 11) * 2.0**-53


def mix64(value: int) -> int:
    """The finalizer of splitmix64, a bijection on 64 bits."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def log_normalizer(logits: NDArray[np.float32]) -> float:
    """log(sum(exp(logits))) of one row; not finite if the row has a NaN or +Inf.

    One row at a time, so that the order of summation cannot depend on how many rows there are.
    """
    largest = float(logits.max())
    if not math.isfinite(largest):
        return math.nan
    return largest + math.log(float(np.exp(logits - np.float32(largest)).sum(dtype=np.float64)))


def log_probabilities(
    logits: NDArray[np.float32], token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The log-probability of a token, and (token, log-probability) of the `count` likeliest, best first."""
    normalizer = log_normalizer(logits)
    likeliest = keep_top_k(logits, count) if count else np.empty(0, np.int64)
    likeliest = likeliest[np.argsort(-logits[likeliest], kind="stable")]
    return float(logits[token]) - normalizer, tuple(
        (int(i), float(logits[i]) - normalizer) for i in likeliest
    )
