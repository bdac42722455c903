"""Affine grids where textbook code is careless: ranges without zero, constants, clipping, signs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penjing.errors import FormatError
from penjing.formats import dequantize_affine, quantize_affine

floats = st.floats(-1e6, 1e6, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=8), elements=floats)


@given(arrays, st.integers(1, 16), st.booleans(), st.booleans())
def test_error_is_at_most_half_a_step(values: Any, bits: int, signed: bool, exact_zero: bool) -> None:
    quantized = quantize_affine(values, bits, signed=signed, exact_zero=exact_zero)
    lowest = -(2 ** (bits - 1)) if signed else 0
    assert quantized.codes.min() >= lowest
    assert quantized.codes.max() <= lowest + 2**bits - 1
    errors = np.abs(dequantize_affine(quantized).astype(np.float64) - values)
    rounding = np.abs(values).max() * 2.0**-23  # of the float32 result
    constant = values.min() == values.max() and not (exact_zero and values.max() != 0)
    assert errors.max() <= (0 if constant else quantized.scale * 0.5001 + rounding)


@pytest.mark.parametrize("signed", [True, False])
def test_a_range_without_zero_gets_every_level(signed: bool) -> None:
    values = np.linspace(1000, 1001, 256).astype(np.float32)
    quantized = quantize_affine(values, 8, signed=signed)
    assert len(np.unique(quantized.codes)) == 256
    assert np.abs(dequantize_affine(quantized) - values).max() < 1 / 255
    negative = quantize_affine(-values, 8, signed=signed)
    assert np.abs(dequantize_affine(negative) + values).max() < 1 / 255


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("values", [[0.1, 5.0, 0.0], [-3.0, 0.0, 7.7], [-9.0, -0.3, 0.0]])
def test_exact_zero_is_exact(values: list[float], signed: bool) -> None:
    array = np.array(values, np.float32)
    back = dequantize_affine(quantize_affine(array, 5, signed=signed, exact_zero=True))
    assert np.all(back[array == 0] == 0)


def test_constant_input_comes_back() -> None:
    for value in (0.0, -3.7, 1e30):
        values = np.full((3, 4), value, np.float32)
        assert np.array_equal(dequantize_affine(quantize_affine(values, 8)), values)


def test_containers_do_not_wrap() -> None:
    values = np.array([-1.0, 1.0], np.float32)
    assert quantize_affine(values, 8).codes.tolist() == [-128, 127]
    assert quantize_affine(values, 8, signed=False).codes.tolist() == [0, 255]
    assert quantize_affine(values, 8, signed=False).codes.dtype == np.uint8
    assert quantize_affine(values, 16, signed=False).codes.tolist() == [0, 65535]
    assert quantize_affine(values, 1).codes.tolist() == [-1, 0]


def test_coverage_clips_the_tails() -> None:
    values = np.concatenate([np.linspace(-1, 1, 998), [100, -50]]).astype(np.float32)
    whole, central = quantize_affine(values, 8), quantize_affine(values, 8, coverage=0.99)
    assert central.scale < whole.scale / 50
    back = dequantize_affine(central)
    assert back.max() <= 1
    assert np.abs(back[100:900] - values[100:900]).max() <= central.scale * 0.5001


def test_coverage_that_leaves_one_point_is_refused() -> None:
    values = np.zeros(100, np.float32)
    values[0] = 1
    with pytest.raises(FormatError, match=r"central 90\.000% of the values all equal 0"):
        quantize_affine(values, 8, coverage=0.9)


@pytest.mark.parametrize("values", [[], [np.nan, 1], [np.inf]])
def test_what_has_no_range_is_refused(values: list[float]) -> None:
    for array in (np.array(values, np.float32), torch.tensor(values, dtype=torch.float32)):
        with pytest.raises(FormatError, match="cannot choose a range"):
            quantize_affine(array, 8)


@pytest.mark.parametrize(("bits", "coverage"), [(0, 1.0), (17, 1.0), (8, 0.0), (8, 1.1)])
def test_settings_out_of_range_are_refused(bits: int, coverage: float) -> None:
    with pytest.raises(FormatError, match="affine grid"):
        quantize_affine(np.ones(3, np.float32), bits, coverage=coverage)


@given(arrays, st.integers(1, 16), st.booleans(), st.sampled_from([1.0, 0.9]))
def test_torch_and_numpy_agree(values: Any, bits: int, signed: bool, coverage: float) -> None:
    tensor = torch.from_numpy(values.copy())
    try:
        ours = quantize_affine(values, bits, signed=signed, coverage=coverage)
    except FormatError:
        with pytest.raises(FormatError):
            quantize_affine(tensor, bits, signed=signed, coverage=coverage)
        return
    theirs = quantize_affine(tensor, bits, signed=signed, coverage=coverage)
    assert (ours.scale, ours.offset) == (theirs.scale, theirs.offset)
    assert np.array_equal(ours.codes, theirs.codes.numpy())
    assert np.array_equal(dequantize_affine(ours), dequantize_affine(theirs).numpy())
