"""Fixed point: the largest exponent that clips nothing, at both edges of the range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penjing.errors import FormatError
from penjing.formats import dequantize_fixed_point, quantize_fixed_point

arrays = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=2, max_side=8), elements=st.floats(-1e6, 1e6, width=32)
)


@given(arrays, st.integers(2, 16))
def test_nothing_is_clipped_and_no_larger_exponent_would_do(values: Any, bits: int) -> None:
    quantized = quantize_fixed_point(values, bits)
    errors = np.abs(dequantize_fixed_point(quantized).astype(np.float64) - values)
    assert errors.max() <= 2.0 ** -(quantized.point + 1)
    if values.any():
        half = 2 ** (bits - 1)
        finer = np.round(values.astype(np.float64) * 2.0 ** (quantized.point + 1))
        assert finer.min() < -half or finer.max() > half - 1
    tensor = quantize_fixed_point(torch.from_numpy(values.copy()), bits)
    assert tensor.point == quantized.point
    assert np.array_equal(tensor.codes.numpy(), quantized.codes)


@pytest.mark.parametrize(
    ("value", "point", "code"),
    [
        (127.0, 0, 127),
        (127.4, 0, 127),
        (127.6, -1, 64),  # rounds up out of int8, though it is below 128
        (-128.0, 0, -128),  # the long side holds it
        (128.0, -1, 64),
        (1.0, 6, 64),
        (-1.0, 7, -128),
        (0.0, 0, 0),
    ],
)
def test_edges_of_int8(value: float, point: int, code: int) -> None:
    quantized = quantize_fixed_point(np.array([value], np.float32), 8)
    assert (quantized.point, quantized.codes.tolist()) == (point, [code])


def test_a_given_point_clips() -> None:
    quantized = quantize_fixed_point(np.array([-100.0, 0.3, 100.0], np.float32), 8, point=2)
    assert dequantize_fixed_point(quantized).tolist() == [-32.0, 0.25, 31.75]


def test_the_smallest_floats_are_held() -> None:
    values = np.array([1e-45, -1e-45], np.float32)
    assert np.array_equal(dequantize_fixed_point(quantize_fixed_point(values, 4)), values)


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(FormatError, match="fixed-point grid"):
        quantize_fixed_point(np.ones(2, np.float32), bits)


def test_values_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(FormatError, match="NaN or Inf"):
        quantize_fixed_point(np.array([1, np.nan], np.float32), 8)
