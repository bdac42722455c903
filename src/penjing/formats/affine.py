"""Affine integer quantization: Q(x) = clip(round(a x + b)), one scale and offset for a whole array.

Textbook versions go wrong in four places, each a test here: a range that excludes zero, a constant input, a
percentile range that is a single point, and results cast to integers before they are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from penjing.errors import FormatError
from penjing.formats.namespace import Array, as_integers, is_finite, namespace, sorted_values


@dataclass(frozen=True, eq=False)
class Affine:
    """Codes of any shape, int8 or uint8 (int32 above 8 bits): x = scale * code + offset.

    In terms of Q(x) = clip(round(a x + b)): a = 1 / scale and b = -offset / scale.
    """

    codes: Array
    scale: float
    offset: float
    bits: int
    signed: bool


def quantize_affine(
    values: Array, bits: int, *, signed: bool = True, coverage: float = 1.0, exact_zero: bool = False
) -> Affine:
    """Quantize a numpy array or torch tensor to 2^bits evenly spaced levels (ties to even), bits in 1..16.

    coverage: 1 spans minimum to maximum; less spans that central fraction of the values (order statistics,
        an equal share cut from each tail), and clips the others to the ends.
    exact_zero: widen the range to include 0 and shift it by less than a step so that one code means exactly
        0, as padding and sparsity need. Otherwise a range such as [5, 6] gets all of the levels.
    Inside the range |x - dequantized| <= scale / 2. A constant input comes back exactly (as float32).
    Raises FormatError for empty input, NaN or Inf, bits or coverage out of range, or a coverage that leaves
    a single point of values that are not constant (mostly zeros, say), where clipping would erase the rest.
    """
    if not 1 <= bits <= 16 or not 0 < coverage <= 1:
        raise FormatError(f"affine grid: bits {bits} must be in 1..16 and coverage {coverage:g} in (0, 1]")
    xp = namespace(values)
    exact = xp.asarray(values, dtype=xp.float64)  # x - offset cancels in float32 when the range is far from 0
    low, high = value_range(exact, coverage)
    if exact_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    lowest = -(2 ** (bits - 1)) if signed else 0
    highest = lowest + 2**bits - 1
    if low == high:
        return Affine(as_integers(exact * 0, bits, signed), 1.0, low, bits, signed)
    scale = (high - low) / (highest - lowest)
    offset = -scale * round(lowest - low / scale) if exact_zero else low - scale * lowest
    codes = xp.clip(xp.round((exact - offset) / scale), lowest, highest)
    return Affine(as_integers(codes, bits, signed), scale, offset, bits, signed)


def dequantize_affine(quantized: Affine) -> Array:
    """Float32 values of the codes' shape: scale * code + offset."""
    xp = namespace(quantized.codes)
    codes = xp.asarray(quantized.codes, dtype=xp.float64)
    return xp.asarray(codes * quantized.scale + quantized.offset, dtype=xp.float32)


def value_range(values: Array, coverage: float) -> tuple[float, float]:
    """The smallest and largest value of the central `coverage` of all values."""
    if len(values.reshape(-1)) == 0 or not is_finite(values):
        raise FormatError("cannot choose a range: the values are empty, or hold NaN or Inf")
    if coverage == 1:
        return float(values.min()), float(values.max())
    ordered = sorted_values(values)
    cut = int((1 - coverage) / 2 * len(ordered))
    low, high = float(ordered[cut]), float(ordered[len(ordered) - 1 - cut])
    if low == high and float(ordered[0]) != float(ordered[-1]):
        raise FormatError(f"the central {coverage:.3%} of the values all equal {low:g}: raise the coverage")
    return low, high
