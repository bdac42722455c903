"""Fixed-point quantization: Q(x) = round(x 2^p), so that a scale is a shift and needs no multiplier."""

from __future__ import annotations

import math
from dataclasses import dataclass

from penjing.errors import FormatError
from penjing.formats.affine import value_range
from penjing.formats.namespace import Array, as_integers, namespace


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """Signed codes of any shape, int8 (int32 above 8 bits): x = code * 2^-point. `point` may be negative."""

    codes: Array
    point: int
    bits: int


def quantize_fixed_point(values: Array, bits: int, *, point: int | None = None) -> FixedPoint:
    """Quantize a numpy array or torch tensor to multiples of 2^-point (ties to even), bits in 2..16.

    point: None takes the largest that clips nothing, so |x - dequantized| <= 2^-(point + 1); a given one
    clips what does not fit. Raises FormatError for empty input, NaN or Inf, or bits out of range.
    """
    if not 2 <= bits <= 16:
        raise FormatError(f"fixed-point grid: {bits} bits must be in 2..16")
    xp = namespace(values)
    exact = xp.asarray(values, dtype=xp.float64)
    low, high = value_range(exact, 1.0)
    if point is None:
        point = largest_point(low, high, bits)
    half = 2 ** (bits - 1)
    codes = xp.clip(xp.round(exact * 2.0**point), -half, half - 1)
    return FixedPoint(as_integers(codes, bits, signed=True), point, bits)


def dequantize_fixed_point(quantized: FixedPoint) -> Array:
    """Float32 values of the codes' shape; exact, a code being a short integer and the step a power of two."""
    xp = namespace(quantized.codes)
    codes = xp.asarray(quantized.codes, dtype=xp.float64)
    return xp.asarray(codes * 2.0**-quantized.point, dtype=xp.float32)


def largest_point(low: float, high: float, bits: int) -> int:
    """The largest p for which both ends of [low, high], rounded, are codes; 0 for [0, 0], never above 1000.

    floor(log2(2^(b-1) / max|x|)) is off by one at both edges: 127.6 rounds up out of int8, and -128 itself
    fits where 128 would not. So the neighbours are tried, from above.
    """
    if low == high == 0:
        return 0
    half = 2 ** (bits - 1)
    _, exponent = math.frexp(max(abs(low), abs(high)))  # largest magnitude in [2^(e-1), 2^e)
    middle = min(bits - 1 - exponent, 999)  # 2^point stays a float64
    fitting = (
        point
        for point in (middle + 1, middle, middle - 1)
        if round(math.ldexp(low, point)) >= -half and round(math.ldexp(high, point)) <= half - 1
    )
    return next(fitting)
