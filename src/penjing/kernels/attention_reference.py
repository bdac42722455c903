"""The numpy oracle of attention over a KV cache of whole numbers: docs/artifact.md, "KV cache", bit for bit.

One query head of one token at a time, clear rather than quick: every float32 operation is the kernels' own.
"""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.kernels.reference import SMALLEST_MAGNITUDE, fma

Floats = NDArray[np.float32]

PACKED_BITS = {"int4": 4, "int5": 5, "int6": 6}  # formats of equal cells

SPAN_TOKENS = 256
GRANULE = 64  # positions whose weights are computed together
LANES = 16
WEIGHT_LEVELS = np.float32(65535)
LOG2_E = np.float32(1.44269504)
# Of the polynomial for 2^r, |r| <= 1/2, the highest power first.
EXP2 = np.array(
    [1.326472731e-3, 9.671512991e-3, 5.550733581e-2, 2.402224243e-1, 6.931470037e-1, 1], np.float32
)


class Quantized(NamedTuple):
    """Vectors as codes [..., head_dim] and scales [...]."""

    codes: NDArray[np.int64]
    scales: Floats


class Partial(NamedTuple):
    """What one span contributes: out [head_dim] in units of 2^shift, and the sum of its weights."""

    out: Floats
    shift: np.float32
    total: np.float32


def mixed_together(head_dim: int) -> int:
    """How many dimensions are mixed with one another: the largest power of two that divides head_dim."""
    return head_dim & -head_dim


def mix(vectors: Floats) -> Floats:
    """The Walsh-Hadamard transform, unnormalized, of groups of dimensions; vectors [..., head_dim]."""
    size = mixed_together(vectors.shape[-1])
    x = vectors.reshape(*vectors.shape[:-1], -1, size)
    for _ in range(size.bit_length() - 1):
        a, b = x[..., : size // 2], x[..., size // 2 :]
        x = np.stack([a + b, a - b], axis=-1).reshape(x.shape)
    return x.reshape(vectors.shape)


def quantize_vectors(vectors: Floats) -> Quantized:
    """Finite vectors [..., head_dim] to 8 bits; below 1e-30 scale and codes are 0."""
    largest = np.abs(vectors).max(-1)
    used = largest >= SMALLEST_MAGNITUDE
    divisor = np.where(used, largest, np.float32(1))
    inverse = np.where(used, np.float32(127) / divisor, np.float32(0))
    codes = np.clip(np.rint(vectors * inverse[..., None]), -127, 127).astype(np.int64)
    return Quantized(codes, np.where(used, divisor / np.float32(127), np.float32(0)).astype(np.float32))


def quantize_to_cells(vectors: Floats, bits: int) -> Quantized:
    """Finite vectors [..., head_dim] to the middles of 2^bits equal cells, odd numbers in half cells.

    The scale, half a cell, is max|x| / 2^bits rounded to bf16.
    """
    largest, cells = np.abs(vectors).max(-1), 2 ** (bits - 1)
    used = largest >= SMALLEST_MAGNITUDE
    scales = (largest / np.float32(2 * cells)).astype(ml_dtypes.bfloat16).astype(np.float32)
    inverse = np.float32(0.5) / np.where(used, scales, np.float32(1))
    nearest = np.clip(np.rint(vectors * inverse[..., None] - np.float32(0.5)), -cells, cells - 1)
    cell = np.where(used[..., None], nearest, -cells)
    return Quantized(2 * cell.astype(np.int64) + 1, np.where(used, scales, np.float32(0)))


def cached(vectors: Floats, format: str, keys: bool) -> Quantized:
    """What int8, int6, int5 or int4 keeps of keys, which are mixed, or values [..., head_dim]."""
    entering = mix(vectors) if keys else vectors
    if format == "int8":
        return quantize_vectors(entering)
    return quantize_to_cells(entering, PACKED_BITS[format])


def exp2(x: Floats) -> Floats:
    """2^x for x <= 0, not below 2^-126: the kernels' polynomial."""
    x = np.maximum(np.float32(-126), np.minimum(np.float32(0), np.asarray(x, np.float32)))
    whole = np.rint(x)
    rest = x - whole
    value = np.full_like(rest, EXP2[0])
    for coefficient in EXP2[1:]:
        value = fma(value, rest, np.full_like(rest, coefficient))
    bits = value.view(np.int32) + (whole.astype(np.int32) << 23)
    return bits.view(np.float32)


def sum_lanes(weights: Floats) -> np.float32:
    """The sum of weights, a multiple of 16 of them: lane by lane, then lanes i and i + 8, i and i + 4 ..."""
    lanes = np.zeros(LANES, np.float32)
    for row in weights.reshape(-1, LANES):
        lanes = lanes + row
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return np.float32(lanes[0])


def attend_span(scores: Floats, values: Quantized, begin: int, end: int, exponent: np.float32) -> Partial:
    """Columns [begin, end) of a span, whose scores and values may be longer than that."""
    shift = np.float32(scores[begin:end].max() * exponent)
    first, last = begin // GRANULE * GRANULE, -(-end // GRANULE) * GRANULE
    seen = scores[begin:end]
    exponents = np.full(SPAN_TOKENS, -np.inf, np.float32)
    exponents[begin:end] = fma(seen, np.full_like(seen, exponent), np.full_like(seen, -shift))
    weights = exp2(exponents)
    total = sum_lanes(weights[first:last])
    largest = values.scales[begin:end].max()
    used = largest >= SMALLEST_MAGNITUDE
    inverse = WEIGHT_LEVELS / largest if used else np.float32(0)
    codes = np.rint(weights[begin:end] * (values.scales[begin:end] * inverse)).astype(np.int64)
    assert codes.max(initial=0) <= WEIGHT_LEVELS
    sums = codes @ values.codes[begin:end]
    assert np.abs(sums).max() < 2**31
    step = largest / WEIGHT_LEVELS if used else np.float32(0)
    return Partial(sums.astype(np.float32) * step, shift, total)


def merge(whole: Partial | None, part: Partial) -> Partial:
    """Add a span to those before it."""
    if whole is None:
        return part
    top = max(whole.shift, part.shift)
    keep, take = exp2(np.array([whole.shift - top, part.shift - top], np.float32))
    out = fma(part.out, np.full_like(part.out, take), whole.out * keep)
    return Partial(out, top, whole.total * keep + part.total * take)


def attend(
    keys: Floats,
    values: Floats,
    query: Floats,
    first: int,
    scale: float,
    *,
    formats: tuple[str, str] = ("int8", "int8"),
) -> Floats:
    """Attention of one query [head_dim] at the last position over positions from `first` on: [head_dim].

    keys, values: float32 [positions, head_dim] of one KV head, from position 0, as they enter the cache in
    `formats`, of whole numbers both.
    """
    mixed, kept = cached(keys, formats[0], True), cached(values, formats[1], False)
    asked = quantize_vectors(mix(query))
    factor = asked.scales / np.float32(mixed_together(len(query))) * np.float32(scale)
    exponent = np.float32((factor if asked.scales else np.float32(1)) * LOG2_E)
    scores = (mixed.codes @ asked.codes).astype(np.float32) * mixed.scales
    whole = None
    for start in range(first // SPAN_TOKENS * SPAN_TOKENS, len(keys), SPAN_TOKENS):
        begin, end = max(first - start, 0), min(len(keys) - start, SPAN_TOKENS)
        values_here = Quantized(kept.codes[start:], kept.scales[start:])
        whole = merge(whole, attend_span(scores[start:], values_here, begin, end, exponent))
    assert whole is not None
    out: Floats = whole.out / whole.total
    return out
