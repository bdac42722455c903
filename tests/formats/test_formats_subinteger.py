"""Values that keep a fraction, and streams of integers narrower than a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penjing.errors import FormatError
from penjing.formats import dequantize_subinteger, pack_bits, quantize_subinteger, unpack_bits

arrays = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, max_side=8), elements=st.floats(-1e3, 1e3, width=32)
)


@given(st.integers(1, 8), st.booleans(), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_streams_round_trip(bits: int, signed: bool, count: int, seed: int) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    codes = np.random.default_rng(seed).integers(low, low + 2**bits, count).astype(np.int16)
    packed = pack_bits(codes, bits)
    assert packed.dtype == np.uint8
    assert len(packed) == -(-count * bits // 8)
    assert np.array_equal(unpack_bits(packed, bits, count, signed=signed), codes)
    ours = pack_bits(torch.from_numpy(codes), bits)
    assert np.array_equal(ours.numpy(), packed)
    assert np.array_equal(unpack_bits(ours, bits, count, signed=signed).numpy(), codes)


def test_bits_count_from_the_lowest() -> None:
    assert pack_bits(np.array([1, 2, 3, 4, 5, 6, 7, 0]), 3).tolist() == [
        0b11_010_001,
        0b0_101_100_0,
        0b000_111_11,
    ]
    assert pack_bits(np.array([-1, -2]), 4).tolist() == [0b1110_1111]


def test_codes_that_do_not_fit_are_refused() -> None:
    for codes in ([4], [-3]):
        with pytest.raises(FormatError, match="do not fit in 2 bits"):
            pack_bits(np.array(codes), 2)


def test_streams_of_another_length_are_refused() -> None:
    with pytest.raises(FormatError, match="2 bytes do not hold exactly 3 codes of 2 bits"):
        unpack_bits(np.zeros(2, np.uint8), 2, 3)


@given(arrays, st.integers(0, 4), st.integers(0, 4))
def test_error_is_at_most_half_a_step(values: Any, integer_bits: int, fraction_bits: int) -> None:
    if integer_bits + fraction_bits == 0:
        return
    quantized = quantize_subinteger(values, integer_bits, fraction_bits)
    back = dequantize_subinteger(quantized)
    assert back.shape == values.shape
    if values.min() == values.max():
        assert np.array_equal(back, values)
    step = 2.0**-fraction_bits / quantized.slope
    assert np.abs(back.astype(np.float64) - values).max() <= step * 0.5001 + np.abs(values).max() * 2.0**-23
    theirs = quantize_subinteger(torch.from_numpy(values.copy()), integer_bits, fraction_bits)
    assert np.array_equal(theirs.packed.numpy(), quantized.packed)
    assert np.array_equal(dequantize_subinteger(theirs).numpy(), back)


def test_the_grid_keeps_quarters() -> None:
    """0..3.75 is the 2 + 2 bit grid itself: slope 1, intercept 0, every quarter exact, 4 bits a value."""
    values = np.arange(16, dtype=np.float32) / 4
    quantized = quantize_subinteger(values, 2, 2)
    assert (quantized.slope, quantized.intercept) == (1.0, 0.0)
    assert quantized.packed.nbytes == 8
    assert np.array_equal(dequantize_subinteger(quantized), values)


@pytest.mark.parametrize(("integer_bits", "fraction_bits"), [(0, 0), (5, 4), (-1, 3)])
def test_bits_out_of_range_are_refused(integer_bits: int, fraction_bits: int) -> None:
    with pytest.raises(FormatError, match="sub-integer grid"):
        quantize_subinteger(np.ones(2, np.float32), integer_bits, fraction_bits)
