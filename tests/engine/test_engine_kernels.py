"""The kernels of the step against numpy, on every instruction set this machine has."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from penjing.engine.step import PAGE_TOKENS
from penjing.kernels import _core, available_isas
from penjing.kernels.attention_reference import PACKED_BITS, cached, mix, mixed_together

pytestmark = pytest.mark.parametrize("isa", available_isas())

LENGTHS = (1, 2, 15, 16, 17, 64, 172, 257)
FORMATS = ("fp32", "bf16", "int8", "int6", "int5", "int4")


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def stored(vectors: NDArray[np.float32], format: str) -> NDArray[np.float32]:
    """What a KV format keeps of vectors [..., head_dim]."""
    if format == "fp32":
        return vectors
    if format == "bf16":
        return vectors.astype(ml_dtypes.bfloat16).astype(np.float32)
    if format in PACKED_BITS:
        kept = cached(vectors, format, False)
        return kept.codes.astype(np.float32) * kept.scales[..., None]
    codes, scales = int8_codes(vectors)
    return codes * scales[..., None]


def int8_codes(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """docs/artifact.md, "KV cache"."""
    largest = np.abs(vectors).max(-1)
    empty = largest < 1e-30
    inverse = np.where(empty, np.float32(0), np.float32(127) / np.where(empty, np.float32(1), largest))
    codes = np.clip(np.rint(vectors * inverse[..., None]), -127, 127)
    return codes, np.where(empty, np.float32(0), largest / np.float32(127))


@pytest.mark.parametrize("n", LENGTHS)
def test_rms_norm(isa: str, n: int) -> None:
    x, weight, out = normal(n) * 3, normal(n, seed=1), np.empty(n, np.float32)
    _core.rms_norm(x, weight, 1e-5, isa, out)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(out, exact / np.sqrt(np.mean(exact**2) + 1e-5) * weight, rtol=2e-6, atol=1e-9)
    _core.rms_norm(x, weight, 1e-5, isa, x)
    np.testing.assert_array_equal(x, out)


@pytest.mark.parametrize("half", LENGTHS)
def test_rotate(isa: str, half: int) -> None:
    head, angles = normal(2 * half), normal(half, seed=1) * 10
    cosine, sine = np.cos(angles), np.sin(angles)
    a, b = head[:half].copy(), head[half:].copy()
    _core.rotate(head, cosine, sine, isa)
    np.testing.assert_array_equal(head, np.concatenate([a * cosine - b * sine, b * cosine + a * sine]))


def exact_gate(x: NDArray[np.float32], activation: str) -> NDArray[np.float64]:
    """SiLU, or GELU as transformers computes it, in double precision."""
    exact = x.astype(np.float64)
    if activation == "silu":
        return exact / (1 + np.exp(-exact))
    return 0.5 * exact * (1 + np.tanh(np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3)))


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("n", LENGTHS)
def test_gate_multiply(isa: str, activation: str, n: int) -> None:
    gate, up, out = normal(n) * 4, normal(n, seed=1), np.empty(n, np.float32)
    _core.gate_multiply(gate, up, activation, isa, out)
    np.testing.assert_allclose(out, exact_gate(gate, activation) * up, rtol=4e-6, atol=1e-9)
    parts = np.empty_like(out)
    for i in range(n):
        _core.gate_multiply(gate[i : i + 1], up[i : i + 1], activation, isa, parts[i : i + 1])
    np.testing.assert_array_equal(parts, out)
    scalar = np.empty_like(out)
    _core.gate_multiply(gate, up, activation, "scalar", scalar)
    np.testing.assert_array_equal(scalar, out)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gates_of_extremes(isa: str, activation: str) -> None:
    gate = np.array([0, 1e30, -1e30, -88, 88, np.inf, np.nan], np.float32)
    out = np.empty_like(gate)
    _core.gate_multiply(gate, np.ones_like(gate), activation, isa, out)
    np.testing.assert_allclose(out[:6], [0, 1e30, 0, 0, 88, np.inf], atol=1e-30)
    assert np.isnan(out[6])


def test_softcap(isa: str) -> None:
    """Near zero, where 1 - 2 / (1 + e^2x) would cancel, and far out; the same bits everywhere."""
    values = np.concatenate([normal(300) * 100, normal(300) * 1e-4, [0.0, 1e30, -1e30]]).astype(np.float32)
    out, scalar = values.copy(), values.copy()
    _core.softcap(out, 30.0, isa)
    np.testing.assert_allclose(out, 30 * np.tanh(values.astype(np.float64) / 30), rtol=3e-7)
    _core.softcap(scalar, 30.0, "scalar")
    np.testing.assert_array_equal(out, scalar)
    broken = np.array([np.nan, 1.0], np.float32)
    _core.softcap(broken, 30.0, isa)
    assert np.isnan(broken[0])
    assert np.isfinite(broken[1])


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("shift", [0.0, -300.0, 300.0])
def test_softmax(isa: str, n: int, shift: float) -> None:
    values = normal(n) * 5 + np.float32(shift)
    exact = np.exp(values.astype(np.float64) - values.max())
    out, scalar = values.copy(), values.copy()
    _core.softmax(out, isa)
    np.testing.assert_allclose(out, exact / exact.sum(), rtol=2e-6, atol=1e-30)
    _core.softmax(scalar, "scalar")
    np.testing.assert_array_equal(out, scalar)
    for bad in (np.nan, np.inf):
        values[n // 2] = bad
        broken = values.copy()
        _core.softmax(broken, isa)
        assert np.isnan(broken).all()


@pytest.mark.parametrize("head_dim", [2, 8, 16, 20, 80, 128])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("keys", [False, True])
def test_pages_as_documented(isa: str, head_dim: int, format: str, keys: bool) -> None:
    """Bytes of a page, as csrc/kernels.h draws it at KvPlane."""
    heads = 3
    vectors = normal(PAGE_TOKENS, heads, head_dim) * np.exp(3 * normal(PAGE_TOKENS, heads, 1, seed=1))
    vectors[5, 1] = 0
    vectors[6, 2] = 1e-38
    if format == "int8":
        expected = int8_page(vectors, keys)
    elif format in PACKED_BITS:
        expected = packed_page(vectors, format, keys)
    else:
        axes = (1, 2, 0) if keys else (1, 0, 2)
        element = ml_dtypes.bfloat16 if format == "bf16" else np.float32
        expected = vectors.astype(element).transpose(axes).tobytes()
    assert _core.written_page(vectors, format, keys, isa)[: len(expected)] == expected


def int8_page(vectors: NDArray[np.float32], keys: bool) -> bytes:
    """Each head's codes, four dimensions of a key or four tokens of a value together, and its scales."""
    codes, scales = int8_codes(mix(vectors) if keys else vectors)
    heads = []
    for head in range(vectors.shape[1]):
        if keys:
            padding = -vectors.shape[2] % 4
            quads = np.pad(codes[:, head] + 128, ((0, 0), (0, padding)), constant_values=128)
            ordered = quads.reshape(PAGE_TOKENS, -1, 4).transpose(1, 0, 2).astype(np.uint8)
        else:
            ordered = codes[:, head].reshape(PAGE_TOKENS // 4, 4, -1).transpose(0, 2, 1).astype(np.int8)
        heads.append(ordered.tobytes() + scales[:, head].astype(np.float32).tobytes())
    return b"".join(heads)


def packed_page(vectors: NDArray[np.float32], format: str, keys: bool) -> bytes:
    """Each head's codes in int8's order, in runs of which a byte holds all halves, or parts; bf16 scales."""
    kept, bits = cached(vectors, format, keys), PACKED_BITS[format]
    codes = ((kept.codes + 2**bits - 1) // 2).astype(np.uint8)
    parts = 2 if bits == 4 else 8 // (bits - 4)
    padded = np.pad(codes, ((0, 0), (0, 0), (0, -vectors.shape[2] % (4 * parts))))
    heads = []
    for head in range(vectors.shape[1]):
        if keys:
            runs = padded[:, head].reshape(PAGE_TOKENS, -1, 4).transpose(1, 0, 2).reshape(1, -1)
        else:
            runs = padded[:, head].reshape(PAGE_TOKENS // 4, 4, -1).transpose(0, 2, 1).reshape(8, -1)
        halves = (runs & 15).reshape(len(runs), 2, -1)
        heads.append((halves[:, 0] | halves[:, 1] << 4).tobytes())
        if bits > 4:
            higher = (runs >> 4).reshape(len(runs), parts, -1)
            shifts = np.arange(parts, dtype=np.uint8)[:, None] * np.uint8(bits - 4)
            heads.append(np.bitwise_or.reduce(higher << shifts, axis=1).tobytes())
        heads.append(kept.scales[:, head].astype(ml_dtypes.bfloat16).tobytes())
    return b"".join(heads)


def attend(
    isa: str,
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    formats: tuple[str, str],
    query: NDArray[np.float32],
    first: int,
    last: int,
    scale: float,
    pages: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """One token at `last`, query [heads, queries, head_dim], over positions from `first` on."""
    if pages is None:
        pages = np.arange(-(-len(keys) // PAGE_TOKENS), dtype=np.int32)
    out = np.empty_like(query)
    window = last - first + 1 if first else 0
    attention = _core.Attention(keys, values, *formats, pages, isa)
    attention.attend(query[None], last, window, scale, 0.0, 1, False, out[None])
    return out


def mixed_and_stored(vectors: NDArray[np.float32], format: str) -> NDArray[np.float32]:
    """Keys or queries as attention in whole numbers sees them, of a length that keeps their products."""
    kept = cached(vectors, format, True)
    length = np.float32(np.sqrt(mixed_together(vectors.shape[-1])))
    return kept.codes.astype(np.float32) * kept.scales[..., None] / length


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("place", ["key", "value"])
def test_broken_keys_and_values_stay_broken(isa: str, format: str, bad: float, place: str) -> None:
    """A key of minus infinity may have weight zero; everything else must show."""
    keys, values, query = normal(40, 1, 16), normal(40, 1, 16, seed=1), np.ones((1, 1, 16), np.float32)
    (keys if place == "key" else values)[11, 0, 3] = bad
    out = attend(isa, keys, values, (format, format), query, 0, 39, 0.25)
    harmless = place == "key" and format in ("fp32", "bf16") and bad == -np.inf
    assert np.isfinite(out).all() == harmless


@pytest.mark.parametrize(("heads", "queries"), [(1, 1), (2, 2), (1, 3), (2, 4), (1, 7)])
@pytest.mark.parametrize("head_dim", [8, 20, 64, 80])
@pytest.mark.parametrize("format", FORMATS)
def test_attention(isa: str, heads: int, queries: int, head_dim: int, format: str) -> None:
    """Spans of one position, of many, and windows that begin anywhere, over shuffled pages."""
    num_tokens, num_pages = 530, 17
    generator = np.random.default_rng(head_dim)
    keys, values = normal(num_tokens, heads, head_dim), normal(num_tokens, heads, head_dim, seed=1)
    query, scale = normal(heads, queries, head_dim, seed=2) * 2, 1 / np.sqrt(head_dim)
    for first, last in ((0, 0), (0, 31), (0, 256), (3, 529), (255, 257), (511, 512), (200, 200)):
        value_format = str(generator.choice(FORMATS))
        outs = [
            attend(
                isa, keys, values, (format, value_format), query, first, last, scale, pages.astype(np.int32)
            )
            for pages in (np.arange(num_pages), generator.permutation(num_pages))
        ]
        np.testing.assert_array_equal(outs[0], outs[1])
        seen = slice(first, last + 1)
        kept, asked = stored(keys, format), query
        if format not in ("fp32", "bf16"):
            kept, asked = mixed_and_stored(keys, format), mixed_and_stored(query, "int8")
        scores = np.einsum("hqd,thd->hqt", asked.astype(np.float64), kept[seen]) * scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        expected = np.einsum("hqt,thd->hqd", weights, stored(values, value_format)[seen])
        rounding = 2e-6 if value_format in ("fp32", "bf16") else 1e-3  # of weights to 16 bits
        np.testing.assert_allclose(outs[0], expected, rtol=1e-5, atol=rounding)


def test_attention_survives_large_scores(isa: str) -> None:
    keys, values = normal(600, 1, 16) * 300, normal(600, 1, 16, seed=1)
    query = normal(1, 1, 16, seed=2) * 300
    out = attend(isa, keys, values, ("fp32", "fp32"), query, 0, 599, 1.0)
    np.testing.assert_allclose(out[0, 0], values[np.argmax(keys[:, 0] @ query[0, 0]), 0], rtol=1e-6)
