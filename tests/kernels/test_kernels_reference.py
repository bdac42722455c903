"""The oracle itself, against exact arithmetic and against what penjing.formats packs."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.formats import decode, encode
from penjing.kernels import Matrix, dequantize_row
from penjing.kernels import reference as oracle
from penjing.spec import WeightFormat

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)


@settings(max_examples=300, deadline=None)
@given(a=finite, b=finite, c=finite)
def test_fma_rounds_once(a, b, c):
    """No neighbouring float32 is closer to the exact value."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    got = oracle.fma(np.float32([a]), np.float32([b]), np.float32([c]))[0]
    down, up = np.nextafter(got, np.float32(-np.inf)), np.nextafter(got, np.float32(np.inf))
    distance = abs(Fraction(float(got)) - exact)
    for neighbour in (down, up):
        if np.isfinite(neighbour):
            assert distance <= abs(Fraction(float(neighbour)) - exact)


def test_fma_avoids_double_rounding():
    """Just below a tie that float64 would round the sum to, and float32 from there upwards."""
    a, b = np.float32([1 + 2.0**-23]), np.float32([2.0**-24 - 2.0**-47])
    c = np.float32([1 + 2.0**-23])
    twice = (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(np.float32)
    assert twice == np.float32(1 + 2.0**-22)
    assert oracle.fma(a, b, c) == np.float32(1 + 2.0**-23)


@pytest.mark.parametrize("name", ["int8", "int4", "layered"])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("tier", ["fast", "best"])
def test_oracle_kernels_and_formats_read_the_same_weights(name, group_size, tier):
    weights = np.random.default_rng(4).standard_normal((37, 172)).astype(np.float32)
    encoded = encode(weights, WeightFormat(name=name, group_size=group_size), "range", "test")
    fields = (name, 37, 172, group_size, encoded.codes, encoded.scales, encoded.residual)
    stated = oracle.dequantize(oracle.Matrix(*fields), tier)
    np.testing.assert_array_equal(stated, decode(encoded, tier))
    matrix = Matrix(*fields)
    for row in (0, 15, 16, 36):
        np.testing.assert_array_equal(dequantize_row(matrix, row, tier), stated[row])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_float_matrices_keep_their_elements(dtype):
    weights = np.random.default_rng(4).standard_normal((21, 30)).astype(dtype)
    encoded = encode(weights, WeightFormat(name="keep"), "range", "test")
    stated = oracle.Matrix(encoded.format, 21, 30, 0, encoded.codes)
    np.testing.assert_array_equal(oracle.dequantize(stated), weights.astype(np.float32))
