"""Exactly k weights stay, ties included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penjing.errors import NonFiniteWeightError, SpecError
from penjing.prune import MagnitudePruning, keep_largest, prune_magnitude
from penjing.spec import validate

# Few distinct magnitudes, so that ties are the rule.
tied = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.sampled_from([-2.0, -1.0, 1.0, 2.0, 3.0]),
)


@given(tied, st.floats(0, 1))
def test_exactly_k_largest_stay(weight: Any, fraction: float) -> None:
    count = round(fraction * weight.size)
    pruned = keep_largest(weight, count)
    kept = pruned != 0
    assert kept.sum() == count
    assert np.array_equal(pruned[kept], weight[kept])
    if 0 < count < weight.size:
        assert np.abs(weight[kept]).min() >= np.abs(weight[~kept]).max()
    assert np.array_equal(pruned, keep_largest(torch.from_numpy(weight.copy()), count).numpy())
    assert np.array_equal(pruned, prune_magnitude(weight, MagnitudePruning(keep=count / weight.size)))


def test_among_equals_the_first_stay_and_the_input_is_untouched() -> None:
    weight = np.array([[1.0, -1.0], [1.0, 2.0]], np.float32)
    assert keep_largest(weight, 2).tolist() == [[1, 0], [0, 2]]
    assert weight.tolist() == [[1, -1], [1, 2]]


def test_bad_requests_are_refused() -> None:
    for count in (-1, 4):
        with pytest.raises(SpecError, match=f"cannot keep {count} of 3"):
            keep_largest(np.ones(3, np.float32), count)
    with pytest.raises(NonFiniteWeightError):
        keep_largest(np.array([1, np.nan], np.float32), 1)
    with pytest.raises(SpecError, match="keep"):
        validate(MagnitudePruning, {"keep": 1.5}, "test")
