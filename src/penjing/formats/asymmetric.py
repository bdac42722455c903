"""Grids with zero points: w = s (u - z), u and z in 0 .. 2^b - 1. Groups side by side, as in `grouped`.

A zero point is a code, so that 0 is exact and every range is widened to hold it.
"""

from __future__ import annotations

from penjing.formats.grouped import LARGEST_HALF, SMALLEST_HALF
from penjing.formats.namespace import Array, namespace, round_to_half, sum_rows

# Scales as parts of the one that holds a whole range: less clips its ends and refines the rest. Two bits want
# to clip a lot, eight bits hardly.
SEARCH_FACTORS = tuple(1 - step / 16 for step in range(8))
SEARCH_SHIFTS = (0, -1, 1)  # of the zero point


def exact_spans(values: Array, bits: int) -> Array:
    """The scale [n] that holds each group's range, before it is rounded; 0 for all-zero groups."""
    xp = namespace(values)
    zero = values[0] * 0
    span = xp.maximum(xp.amax(values, 0), zero) - xp.minimum(xp.amin(values, 0), zero)
    return span / (2**bits - 1)


def range_zeros(values: Array, scales: Array, bits: int) -> Array:
    """Zero points [n] that put a group's least weight (or 0) at code 0, for scales above 0."""
    xp = namespace(values)
    lowest = xp.minimum(xp.amin(values, 0), values[0] * 0)
    return xp.clip(xp.round(-lowest / xp.where(scales == 0, 1.0, scales)), 0, 2**bits - 1)


def search_zeros(values: Array, bits: int) -> tuple[Array, Array]:
    """Scales and zero points [n] of least squared error among clipped ranges, shifts and a refit.

    Never worse than the whole range. Every weight counts the same.
    """
    xp = namespace(values)
    exact = exact_spans(values, bits)
    best = least = zeros = None
    for factor in SEARCH_FACTORS:
        scales = round_to_half(xp.clip(exact * factor, SMALLEST_HALF, LARGEST_HALF))
        middle = range_zeros(values * factor, scales, bits)
        for shift in SEARCH_SHIFTS:
            shifted = xp.clip(middle + shift, 0, 2**bits - 1)
            errors = zero_errors(values, scales, shifted, bits)
            if best is None:
                best, zeros, least = scales, shifted, errors
                continue
            better = errors < least
            best, zeros = xp.where(better, scales, best), xp.where(better, shifted, zeros)
            least = xp.where(better, errors, least)
    fitted = refit(values, best, zeros, bits)
    better = (zero_errors(values, fitted, zeros, bits) < least) & (fitted > 0)
    best = xp.where(better, fitted, best)
    return xp.where(exact == 0, 0.0, best), xp.where(exact == 0, 0.0, zeros)


def steps_from_zero(values: Array, scales: Array, zeros: Array, bits: int) -> Array:
    """u - z [G, n] of the nearest codes."""
    xp = namespace(values)
    codes = xp.round(values / xp.where(scales == 0, 1.0, scales) + zeros)
    return xp.clip(codes, 0, 2**bits - 1) - zeros


def zero_errors(values: Array, scales: Array, zeros: Array, bits: int) -> Array:
    """Squared errors [n] of the nearest codes."""
    difference = values - steps_from_zero(values, scales, zeros, bits) * scales
    return sum_rows(difference * difference)


def refit(values: Array, scales: Array, zeros: Array, bits: int) -> Array:
    """Least-squares scales for the codes that `scales` and `zeros` give, rounded to float16."""
    xp = namespace(values)
    steps = steps_from_zero(values, scales, zeros, bits)
    norms = sum_rows(steps * steps)
    fitted = sum_rows(values * steps) / xp.where(norms == 0, 1.0, norms)
    return round_to_half(xp.clip(fitted, 0.0, LARGEST_HALF))
