"""Symmetric full-range grids with one scale a group: w = s q, q in [-2^(b-1), 2^(b-1) - 1].

The scale may be negative: a full-range grid reaches one step further on one side, and the sign chooses which.
Every function takes `values` float32 [G, n], the n groups side by side (G a power of two), and scales
float32 [n] that float16 holds exactly: scales are rounded first, and codes are chosen for what is stored.
Numpy and torch give the same bits, and so does any division of the groups into calls.
"""

from __future__ import annotations

from penjing.formats.namespace import Array, namespace, round_to_half, sum_rows

SMALLEST_HALF = 2.0**-24  # the smallest positive float16
LARGEST_HALF = 65504.0
RESIDUAL_STEPS = 8  # steps of the residual plane in one step of the base plane

# Candidate scales put the largest magnitude at 2^(b-1) + offset: -1 keeps it on the shorter side of the grid,
# 0 is the range scale, and positive offsets clip it, which pays when the other values then lie on a finer grid.
SEARCH_OFFSETS = tuple(offset / 4 for offset in range(-4, 21))


def largest_magnitudes(values: Array) -> Array:
    """Max |w| of each group, [n]."""
    xp = namespace(values)
    return xp.amax(xp.abs(values), 0)


def range_scales(values: Array, bits: int) -> Array:
    """Scales that map each group's element of largest magnitude to -2^(b-1); 0 for all-zero groups.

    They underflow to 0 where max |w| 2^(1-b) is at most 2^-25: the caller refuses such groups by name.
    """
    xp = namespace(values)
    highest, lowest = xp.amax(values, 0), xp.amin(values, 0)
    extreme = xp.where(highest > -lowest, highest, lowest)
    return round_to_half(xp.clip(extreme * -(2.0 ** (1 - bits)), -LARGEST_HALF, LARGEST_HALF))


def nearest_codes(values: Array, scales: Array, bits: int) -> Array:
    """The nearest codes of each element (ties to even), float32 [G, n]; 0 where the scale is 0."""
    xp = namespace(values)
    divisors = xp.where(scales == 0, 1.0, scales)
    half = 2 ** (bits - 1)
    return xp.clip(xp.round(values / divisors), -half, half - 1) * (scales != 0)


def residual_codes(values: Array, codes: Array, scales: Array) -> Array:
    """The 4-bit second plane: nearest codes of what `codes` left over, at step s / 8, float32 [G, n]."""
    return nearest_codes(values - codes * scales, scales / RESIDUAL_STEPS, 4)


def squared_errors(values: Array, codes: Array, scales: Array) -> Array:
    """Sum of (w - s q)^2 over each group, [n]."""
    difference = values - codes * scales
    return sum_rows(difference * difference)


def search_scales(values: Array, bits: int) -> Array:
    """Scales of least squared error among SEARCH_OFFSETS and both signs, then refitted; 0 for all-zero groups.

    Never worse than `range_scales`, which is among the candidates. Refitting solves for the scale in closed
    form with the codes frozen (s = <w, q> / <q, q>), rounds it to float16, and is kept where the error falls.
    """
    xp = namespace(values)
    largest = largest_magnitudes(values)
    best_scales, best_errors = xp.zeros_like(largest), xp.full_like(largest, float("inf"))
    scaled, rounded, scratch = (xp.empty_like(values) for _ in range(3))
    half = 2 ** (bits - 1)
    for offset in SEARCH_OFFSETS:
        steps = round_to_half(xp.clip(largest / (half + offset), SMALLEST_HALF, LARGEST_HALF))
        xp.multiply(values, 1.0 / steps, out=scaled)
        xp.round(scaled, out=rounded)
        for sign, low in ((1.0, -half), (-1.0, 1 - half)):
            xp.clip(rounded, low, low + 2 * half - 1, out=scratch)
            xp.subtract(scratch, scaled, out=scratch)
            xp.multiply(scratch, scratch, out=scratch)
            errors = sum_rows(scratch) * (steps * steps)
            better = errors < best_errors
            best_errors = xp.where(better, errors, best_errors)
            best_scales = xp.where(better, sign * steps, best_scales)
    return refit_scales(values, xp.where(largest == 0, 0.0, best_scales), bits)


def refit_scales(values: Array, scales: Array, bits: int) -> Array:
    """Closed-form least-squares scales for the codes that `scales` give; kept per group where the error falls."""
    xp = namespace(values)
    codes = nearest_codes(values, scales, bits)
    errors = squared_errors(values, codes, scales)
    norms = sum_rows(codes * codes)
    fitted = sum_rows(values * codes) / xp.where(norms == 0, 1.0, norms)
    fitted = round_to_half(xp.clip(fitted, -LARGEST_HALF, LARGEST_HALF))
    better = (squared_errors(values, codes, fitted) < errors) & (fitted != 0)
    return xp.where(better, fitted, scales)
