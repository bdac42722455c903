"""Draws: unbiased, steadier than independent ones, and the same after packing."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.distill.draws import Draws, draw, id_bytes, pack, unpack


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed]))


def frequencies(logits: torch.Tensor, num_draws: int, seed: int) -> np.ndarray:
    """Of each token, float64 [positions, vocabulary]."""
    ids, counts = draw(logits, num_draws, generator(seed)).padded(num_draws)
    found = np.zeros(tuple(logits.shape))
    for row in range(len(ids)):
        np.add.at(found[row], ids[row], counts[row] / num_draws)
    return found


def test_counts_are_an_unbiased_estimate_with_less_variance_than_independent_draws() -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(0)) * 2
    chances = logits.double().softmax(-1).numpy()[0]
    found = frequencies(logits.expand(20_000, -1), 12, seed=1)
    independent = chances * (1 - chances) / 12
    assert np.all(np.abs(found.mean(0) - chances) < 4.5 * np.sqrt(independent / len(found)))
    assert np.all(found.var(0) < 1.3 * independent + 1e-5)
    assert found.var(0).sum() < 0.7 * independent.sum()


def test_a_seed_decides_the_draws_and_impossible_tokens_are_never_drawn() -> None:
    logits = torch.randn(70, 300, generator=torch.Generator().manual_seed(0))
    logits[:, ::2] = -torch.inf
    first, again, other = (draw(logits, 12, generator(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.counts, again.counts)
    assert not np.array_equal(first.ids, other.ids)
    assert (first.ids % 2 == 1).all()
    parts = draw(logits[:64], 12, generator(5))
    assert np.array_equal(parts.distinct, first.distinct[:64]), "rows are drawn one after another"


def test_the_last_quantile_stays_inside_the_vocabulary() -> None:
    class Extreme:
        def __init__(self, value: float) -> None:
            self.value = value

        def random(self, shape: tuple[int, int]) -> np.ndarray:
            return np.full(shape, self.value)

    logits = torch.tensor([[0.0, 3.0, -torch.inf], [-torch.inf, 1.0, 2.0]])
    for value in (0.0, 1 - 2.0**-53):
        draws = draw(logits, 255, Extreme(value))  # type: ignore[arg-type]
        assert draws.ids.tolist() == [0, 1, 1, 2]


@given(
    st.integers(1, 12),
    st.sampled_from([1, 2, 256, 257, 65_536, 65_537, 151_936]),
    st.integers(1, 255),
    st.sampled_from([0.0, 5.0, 12.0]),
)
@settings(deadline=None, max_examples=40)
def test_packing_keeps_everything(positions: int, vocabulary: int, num_draws: int, peak: float) -> None:
    logits = torch.zeros(positions, vocabulary)
    logits[:, vocabulary // 3] = peak
    draws = draw(logits, num_draws, generator(positions))
    found = unpack(pack(draws, vocabulary), positions, num_draws, vocabulary)
    assert np.array_equal(found.distinct, draws.distinct)
    assert np.array_equal(found.ids, draws.ids)
    assert np.array_equal(found.counts, draws.counts)
    ids, counts = found.padded(num_draws)
    assert (counts.sum(1) == num_draws).all()
    assert ids.max() < vocabulary


def test_ids_take_as_many_bytes_as_the_vocabulary_needs() -> None:
    assert [id_bytes(size) for size in (1, 2, 256, 257, 65_536, 65_537, 151_936)] == [1, 1, 1, 2, 2, 3, 3]


def test_what_is_not_draws_is_refused() -> None:
    draws = Draws(np.array([1, 2], "u1"), np.array([3, 1, 4]), np.array([2, 1, 1], "u1"))
    packed = pack(draws, 5)
    unpack(packed, 2, 2, 5)
    with pytest.raises(ValueError, match="out of range"):
        unpack(packed, 2, 2, 4)
    with pytest.raises(ValueError, match="out of range"):
        unpack(packed, 2, 3, 5)
    with pytest.raises(ValueError, match="other sizes"):
        unpack(packed, 3, 2, 5)
    with pytest.raises(ValueError, match="header"):
        unpack(b"nothing", 2, 2, 5)
    with pytest.raises(ValueError, match="other sizes"):
        unpack(zlib.compress(bytes(10**7)), 2, 2, 5)
