"""Products against the oracle: the same bits on every instruction set, blocking and thread count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tile_matrices import FORMATS, INTEGER_FORMATS, both, random_matrix, random_rows

from penjing.kernels import linear, linear_quantized, quantize_rows
from penjing.kernels import reference as oracle

relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
shapes = st.tuples(
    st.sampled_from(FORMATS),
    st.integers(1, 70),
    st.sampled_from([1, 8, 31, 32, 64, 100, 172, 256, 300]),
    st.sampled_from([32, 64, 128]),
)


@relaxed
@given(
    shape=shapes, tokens=st.integers(0, 36), tier=st.sampled_from(["fast", "best"]), seed=st.integers(0, 999)
)
def test_linear_has_the_oracle_s_bits(isa, shape, tokens, tier, seed):
    format, rows, columns, group_size = shape
    matrix, stated = random_matrix(format, rows, columns, group_size, seed)
    x = random_rows(tokens, columns, seed)
    expected = oracle.linear(stated, x, tier)
    actual = linear(matrix, x, tier, isa)
    assert actual.shape == (tokens, rows)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tier", ["fast", "best"])
def test_linear_is_close_to_the_dequantized_product(isa, format, tier):
    """Independent of the order of operations: float64 over dequantized weights and activations."""
    matrix, stated = random_matrix(format, 50, 172, 32, 7)
    x = random_rows(9, 172, 7)
    values = x.astype(np.float64)
    if format in INTEGER_FORMATS:
        codes, scales, _ = oracle.quantize_rows(x, 32)
        values = (codes * np.repeat(scales.astype(np.float64), 32, axis=1))[:, :172]
    expected = values @ oracle.dequantize(stated, tier).astype(np.float64).T
    largest = np.abs(values) @ np.abs(oracle.dequantize(stated, tier).astype(np.float64)).T
    assert np.all(np.abs(linear(matrix, x, tier, isa) - expected) <= 1e-5 * largest)


@pytest.mark.parametrize("format", FORMATS)
def test_a_token_does_not_depend_on_its_neighbours(isa, format):
    matrix, _ = random_matrix(format, 75, 256, 64, 3)
    x = random_rows(64, 256, 3)
    together = linear(matrix, x, "best", isa)
    for count in (1, 2, 3, 5, 7, 8, 9, 13, 33):
        parts = [linear(matrix, x[i : i + count], "best", isa) for i in range(0, 64, count)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


@pytest.mark.parametrize("format", FORMATS)
def test_threads_and_panels_do_not_show(isa, format):
    """Wide enough that a panel of tiles is cut several times."""
    matrix, stated = random_matrix(format, 200, 4096, 128, 5)
    x = random_rows(3, 4096, 5)
    alone = linear(matrix, x, "best", isa)
    for threads in (2, 3):
        np.testing.assert_array_equal(linear(matrix, x, "best", isa, threads), alone)
    np.testing.assert_array_equal(alone, oracle.linear(stated, x, "best"))


@pytest.mark.parametrize("format", INTEGER_FORMATS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("tier", ["fast", "best"])
@pytest.mark.parametrize("extremes", [(0, -127), (0, 127), (255, -127), (255, 127)])
def test_accumulators_hold_the_largest_codes(isa, format, group_size, tier, extremes):
    """Where 16-bit sums of byte products would saturate; unit scales show the integers themselves."""
    fill, activation = extremes
    rows, columns, name = 16, 2 * group_size, format.rstrip("+")
    low, high = (np.full(rows * columns * bits // 8, fill, np.uint8) for bits in oracle.PLANES[name])
    ones, bits = np.full(2 * 16, np.float16(1)).view(np.uint16), sum(oracle.PLANES[name])
    zeros = np.full(2 * 16, 0 if fill else 2**bits - 1, np.uint8) if format.endswith("+") else None
    table = np.full(16, 127 if fill else -128, np.int8) if name.startswith("table") else None
    residual = low.copy() if name == "layered" else None
    matrix, stated = both(
        name, rows, columns, group_size, low, ones, residual, high if high.size else None, zeros, table
    )
    codes = np.full((1, columns), activation, np.int8)
    sums = np.full((1, 2), group_size * activation, np.int32)
    quantized = oracle.pack_rows(oracle.QuantizedRows(codes, np.ones((1, 2), np.float32), sums))
    steps = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if name.startswith("table"):
        steps = (-128, 127)
    if format == "layered":
        steps = (-72, 63)
    if format.endswith("+"):
        steps = (1 - 2**bits, 2**bits - 1)
    if format == "layered" and tier == "fast":
        steps = (-8, 7)
    step = 0.125 if format == "layered" and tier == "best" else 1.0
    expected = activation * columns * steps[1 if fill else 0] * step
    out = linear_quantized(matrix, quantized, tier, isa)
    np.testing.assert_array_equal(out, np.full((1, rows), expected, np.float32))
    np.testing.assert_array_equal(
        oracle.dequantize(stated, tier), np.full((rows, columns), expected / activation / columns)
    )


@pytest.mark.parametrize("format", [*INTEGER_FORMATS, *oracle.FLOAT_CODES])
def test_what_is_not_finite_reaches_its_token_alone(isa, format):
    matrix, stated = random_matrix(format, 40, 100, 32, 11)
    x = random_rows(3, 100, 11)
    x[1, 70] = np.nan
    expected = oracle.linear(stated, x)
    assert np.isnan(expected[1]).all()
    assert np.isfinite(expected[[0, 2]]).all()
    np.testing.assert_array_equal(linear(matrix, x, "best", isa), expected)


def test_wrong_shapes_are_refused(isa):
    matrix, _ = random_matrix("int4", 20, 64, 32, 0)
    plain, _ = random_matrix("fp32", 20, 64, 32, 0)
    with pytest.raises(ValueError, match="codes has 32 elements, and 64"):
        linear(matrix, random_rows(1, 32, 0), isa=isa)
    with pytest.raises(ValueError, match="row of x has 65 elements, and 64"):
        linear(plain, random_rows(1, 65, 0), isa=isa)
    with pytest.raises(ValueError, match="takes float32 rows"):
        linear_quantized(plain, quantize_rows(random_rows(1, 64, 0), 32))
    with pytest.raises(ValueError, match="unknown tier 'middle'"):
        linear(matrix, random_rows(1, 64, 0), "middle", isa)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        linear(matrix, random_rows(1, 64, 0), isa=isa, threads=0)
