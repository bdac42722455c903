"""Attention over pages: the oracle's bits for whole numbers; rows do not depend on tiles, parts or pages."""

from __future__ import annotations

import numpy as np
import pytest

from penjing.kernels import _core
from penjing.kernels import attention_reference as oracle

ALONE = [("int8", "int8"), ("int6", "int6"), ("int5", "int5"), ("int4", "int4")]
PAIRS = [("int6", "int4"), ("int8", "int5"), ("int4", "int8")]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def cache(isa, keys, values, formats=("int8", "int8"), pages=None):
    """Keys and values in pages, shuffled unless told otherwise."""
    count = -(-len(keys) // 32)
    order = np.random.default_rng(1).permutation(count) if pages is None else pages
    return _core.Attention(keys, values, *formats, order.astype(np.int32), isa)


def attend(attention, query, position, *, window=0, scale=0.2, softcap=0.0, parts=False):
    """query [rows, kv_heads, queries, head_dim] from `position` on, in one tile."""
    query = np.ascontiguousarray(query)
    out = np.full_like(query, np.nan)
    attention.attend(query, position, window, scale, softcap, len(query), parts, out)
    return out


@pytest.mark.parametrize(
    ("formats", "head_dim"),
    [(formats, head_dim) for formats in ALONE for head_dim in (2, 8, 20, 32, 64, 80, 96, 128, 256)]
    + [(formats, head_dim) for formats in PAIRS for head_dim in (20, 64)],
)
def test_whole_numbers_have_the_oracle_s_bits(isa, formats, head_dim):
    """Contexts within one span and over several, whole and through windows, with outliers and empty heads."""
    tokens, heads, queries = 530, 2, 3
    keys, values = normal(tokens, heads, head_dim), normal(tokens, heads, head_dim, seed=1)
    keys *= np.exp(normal(tokens, 1, 1, seed=3))
    values *= np.exp(2 * normal(tokens, 1, 1, seed=4))
    keys[:, :, 0] *= 20
    keys[7], values[9] = 0, 0
    attention = cache(isa, keys, values, formats)
    query = normal(1, heads, queries, head_dim, seed=2) * 3 / head_dim**0.5
    query[0, 0, 1] = 0
    for position, window in (
        (0, 0),
        (30, 0),
        (255, 0),
        (256, 0),
        (300, 45),
        (529, 0),
        (529, 300),
        (511, 256),
    ):
        first = max(0, position - window + 1) if window else 0
        seen = slice(0, position + 1)
        expected = [
            oracle.attend(
                keys[seen, head], values[seen, head], query[0, head, q], first, 0.2, formats=formats
            )
            for head in range(heads)
            for q in range(queries)
        ]
        actual = attend(attention, query, position, window=window)
        np.testing.assert_array_equal(actual.reshape(-1, head_dim), expected, err_msg=f"{position} {window}")


@pytest.mark.parametrize(
    "formats",
    [
        ("int8", "int8"),
        ("int4", "int4"),
        ("int6", "int5"),
        ("int5", "int6"),
        ("bf16", "bf16"),
        ("fp32", "int8"),
        ("int8", "fp32"),
        ("fp32", "int4"),
    ],
)
@pytest.mark.parametrize("window", [0, 1, 40, 256, 300])
def test_rows_tiles_and_parts_agree(isa, formats, window):
    """A row alone, in a tile, and in parts merged afterwards; beyond it stand positions it must not see."""
    tokens, heads, queries, head_dim = 540, 2, 3, 40
    keys, values = normal(tokens, heads, head_dim), normal(tokens, heads, head_dim, seed=1)
    attention, other = (cache(isa, keys, values, formats, pages) for pages in (None, np.arange(17)))
    for position, rows in ((0, 8), (60, 7), (252, 8), (505, 16), (532, 8)):
        query = normal(rows, heads, queries, head_dim, seed=2)
        tile = attend(attention, query, position, window=window, softcap=5.0)
        assert np.isfinite(tile).all()
        np.testing.assert_array_equal(
            attend(other, query, position, window=window, softcap=5.0, parts=True), tile
        )
        for row in range(rows):
            alone = attend(attention, query[row : row + 1], position + row, window=window, softcap=5.0)
            np.testing.assert_array_equal(alone[0], tile[row])


@pytest.mark.parametrize("formats", [("int8", "int8"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_softcap(isa, formats):
    keys, values = normal(300, 1, 32) * 4, normal(300, 1, 32, seed=1)
    query = normal(1, 1, 2, 32, seed=2) * 4
    actual = attend(cache(isa, keys, values, formats), query, 299, scale=0.5, softcap=3.0)
    scores = 3 * np.tanh(query[0, 0].astype(np.float64) @ keys[:, 0].T * 0.5 / 3)
    weights = np.exp(scores)
    expected = weights @ values[:, 0] / weights.sum(-1, keepdims=True)
    tolerance = {"fp32": 1e-5, "bf16": 2e-2, "int8": 2e-2}[formats[0]]
    np.testing.assert_allclose(actual[0, 0], expected, atol=tolerance)


@pytest.mark.parametrize("softcap", [0.0, 20.0])
def test_int8_is_near_exact_attention(isa, softcap):
    """As near as 8 bits are, with an outlier among the dimensions that would ruin keys that are not mixed."""
    keys, values = normal(700, 1, 64), normal(700, 1, 64, seed=1)
    keys[:, :, 5] += 30
    query = normal(1, 1, 4, 64, seed=2)
    actual = attend(cache(isa, keys, values), query, 699, scale=0.125, softcap=softcap)
    scores = query[0, 0].astype(np.float64) @ keys[:, 0].T * 0.125
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights @ values[:, 0] / weights.sum(-1, keepdims=True)
    assert np.abs(actual[0, 0] - expected).max() < 0.01


def test_the_largest_sums_fit(isa):
    """All weights and all values of 256 positions at their largest: 65,535 x 127 x 256, just below 2^31."""
    values = np.full((256, 1, 16), -3.0, np.float32)
    out = attend(
        cache(isa, np.zeros((256, 1, 16), np.float32), values), np.ones((1, 1, 1, 16), np.float32), 255
    )
    np.testing.assert_allclose(out, -3.0, rtol=1e-6)
    keys = np.full((256, 1, 1024), 5.0, np.float32)
    out = attend(cache(isa, keys, np.tile(values, 64)), keys[None, :1], 255)
    np.testing.assert_allclose(out, -3.0, rtol=1e-5)


def test_the_widest_heads(isa):
    """1,022 dimensions, packed as 1,024."""
    keys, values, query = normal(40, 1, 1022), normal(40, 1, 1022, seed=1), normal(1, 1, 2, 1022, seed=2)
    out = attend(cache(isa, keys, values, ("int5", "int5")), query, 39, scale=0.03)
    for q in range(2):
        expected = oracle.attend(keys[:, 0], values[:, 0], query[0, 0, q], 0, 0.03, formats=("int5", "int5"))
        np.testing.assert_array_equal(out[0, 0, q], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["keys", "values", "query"])
@pytest.mark.parametrize("format", ["int8", "int5", "int4"])
def test_broken_numbers_reach_the_rows_that_see_them_and_no_others(isa, bad, place, format):
    arrays = {
        "keys": normal(64, 1, 16),
        "values": normal(64, 1, 16, seed=1),
        "query": normal(8, 1, 1, 16, seed=2),
    }
    arrays[place][(4,) if place == "query" else (44,)] = bad
    attention = cache(isa, arrays["keys"], arrays["values"], (format, format))
    out = attend(attention, arrays["query"], 40)
    finite = np.isfinite(out).all(-1).ravel()
    wanted = [row != 4 for row in range(8)] if place == "query" else [row < 4 for row in range(8)]
    assert finite.tolist() == wanted
    assert np.isnan(out[4]).all()


def test_what_attend_refuses():
    attention = cache("scalar", normal(40, 2, 8), normal(40, 2, 8))
    query = normal(2, 2, 1, 8)
    for position in (-1, 39):
        with pytest.raises(ValueError, match="positions out of range"):
            attend(attention, query, position)
    with pytest.raises(ValueError, match="do not fit"):
        attend(attention, normal(1, 1, 1, 8), 0)
