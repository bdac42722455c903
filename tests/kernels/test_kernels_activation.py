"""Quantized activations and dequantized rows against the oracle, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tile_matrices import FORMATS, random_matrix, random_rows

from penjing.kernels import dequantize_row, linear, quantize_rows
from penjing.kernels import reference as oracle

relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
any_floats = npst.arrays(
    np.float32,
    st.tuples(st.sampled_from([0, 1, 2, 3, 17]), st.integers(1, 140)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@relaxed
@given(x=any_floats, group_size=st.sampled_from([32, 64, 128]))
def test_quantize_rows_has_the_oracle_s_bits(isa, x, group_size):
    actual = quantize_rows(x, group_size, isa)
    expected = oracle.pack_rows(oracle.quantize_rows(x, group_size))
    for field in oracle.PackedRows._fields:
        np.testing.assert_array_equal(getattr(actual, field), getattr(expected, field), err_msg=field)


def test_quantize_rows_follows_the_written_rule(isa):
    """Ties go to even, the padding is zero, and groups have their own scales."""
    x = np.zeros((1, 34), np.float32)
    x[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -126.5]
    x[0, 32:] = [1e-31, -1e-31]
    _, codes, scales, sums = quantize_rows(x, 32, isa)
    assert codes.shape == (64,)
    assert codes[:6].tolist() == [127, 0, 2, 2, 0, -126]
    assert not codes[6:].any()
    assert scales.tolist() == [1.0, 0.0]
    assert sums.tolist() == [127 + 2 + 2 - 126, 0]


def test_a_block_has_four_columns_of_its_tokens_side_by_side(isa):
    """17 tokens are blocks of 8 and 9."""
    x = random_rows(17, 64, 0)
    codes = quantize_rows(x, 32, isa).codes
    stated = oracle.quantize_rows(x, 32).codes
    for token, k in [(0, 0), (7, 63), (3, 6)]:
        assert codes[k // 4 * 8 * 4 + token * 4 + k % 4] == stated[token, k]
    for token, k in [(8, 0), (16, 63), (11, 6)]:
        assert codes[8 * 64 + k // 4 * 9 * 4 + (token - 8) * 4 + k % 4] == stated[token, k]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 17, 99])
def test_what_is_not_finite_reaches_every_output(isa, bad, place):
    matrix, _ = random_matrix("int4", 20, 100, 32, 1)
    x = random_rows(3, 100, 1)
    x[1, place] = bad
    out = linear(matrix, x, "best", isa)
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2]]).all()


def test_quantize_rows_refuses_other_groups(isa):
    with pytest.raises(ValueError, match="32, 64 or 128"):
        quantize_rows(np.zeros((1, 64), np.float32), 48, isa)


@relaxed
@given(
    format=st.sampled_from(FORMATS),
    shape=st.tuples(st.integers(1, 40), st.sampled_from([1, 7, 32, 100, 172])),
    group_size=st.sampled_from([32, 64, 128]),
    tier=st.sampled_from(["fast", "best"]),
)
def test_dequantize_row_has_the_oracle_s_bits(isa, format, shape, group_size, tier):
    rows, columns = shape
    seed = rows + columns
    matrix, stated = random_matrix(format, rows, columns, group_size, seed)
    row = 7 * columns % rows
    actual = dequantize_row(matrix, row, tier, isa)
    np.testing.assert_array_equal(actual, oracle.dequantize_row(stated, row, tier))


def test_every_half_is_widened_exactly(isa):
    halves = np.arange(2**16, dtype=np.uint16).reshape(16, -1)
    stored = np.ascontiguousarray(halves.T).reshape(-1)
    matrix, _ = random_matrix("fp16", 16, 4096, 0, 0)
    from_bits = type(matrix)("fp16", 16, 4096, 0, stored.view(np.uint8))
    for row in range(16):
        np.testing.assert_array_equal(
            dequantize_row(from_bits, row, isa=isa), halves[row].view(np.float16).astype(np.float32)
        )


def test_rows_outside_are_refused(isa):
    matrix, _ = random_matrix("int8", 20, 64, 32, 0)
    for row in (-1, 20):
        with pytest.raises(ValueError, match=f"row {row} is outside"):
            dequantize_row(matrix, row, isa=isa)
