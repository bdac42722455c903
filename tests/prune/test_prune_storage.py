"""Sparse storage gives the same matrix back, and counts its bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penjing.errors import FormatError
from penjing.prune import MagnitudePruning, prune_magnitude, to_dense, to_masked, to_sparse, unmask

mostly_zero = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=19),
    elements=st.sampled_from([0.0, 0.0, -1.0, 2.0]),
)


@given(mostly_zero)
def test_sparse_storage_round_trips(weight: Any) -> None:
    count, (rows, columns) = np.count_nonzero(weight), weight.shape
    sparse, masked = to_sparse(weight), to_masked(weight)
    assert np.array_equal(to_dense(sparse), weight)
    assert np.array_equal(unmask(masked), weight)
    assert sparse.nbytes == 4 * (rows + 1) + count * (2 + 4)
    assert masked.nbytes == rows * ((columns + 7) // 8) + count * 4


def test_column_numbers_are_as_narrow_as_they_can_be() -> None:
    assert to_sparse(np.ones((1, 65536), np.int8)).columns.dtype == np.uint16
    assert to_sparse(np.ones((1, 65537), np.int8)).columns.dtype == np.uint32


def test_half_precision_gains_from_half_density_on_or_with_bits_at_once() -> None:
    dense = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float16)
    for keep, smaller in ((0.55, False), (0.45, True)):
        pruned = prune_magnitude(dense, MagnitudePruning(keep=keep))
        assert (to_sparse(pruned).nbytes < dense.nbytes) is smaller
        assert to_masked(pruned).nbytes < dense.nbytes
    assert to_masked(dense).nbytes > dense.nbytes, "with nothing dropped, bits are on top"


def test_two_of_four_at_16_bits_are_nine_sixteenths() -> None:
    dense = np.tile(np.array([1, 0, 2, 0], np.float16), (64, 128))
    assert to_masked(dense).nbytes * 16 == dense.nbytes * 9


def test_only_matrices_are_stored() -> None:
    for store in (to_sparse, to_masked):
        with pytest.raises(FormatError, match="not a matrix"):
            store(np.ones(3, np.float32))
