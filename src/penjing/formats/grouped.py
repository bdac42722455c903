"""Symmetric full-range grids with one scale a group: w = s q, q in [-2^(b-1), 2^(b-1) - 1].

The scale may be negative: a full-range grid reaches one step further on one side, and the sign chooses which.
Every function takes `values` float32 [G, n], the n groups side by side (G a power of two), and scales
float32 [n] that float16 holds exactly: scales are rounded first, and codes are chosen for what is stored.
Numpy and torch give the same bits, and so does any division of the groups into calls.
"""

from __future__ import annotations

from penjing.formats.namespace import Array, namespace, round_to_half, sum_rows, take_columns

SMALLEST_HALF = 2.0**-24  # the smallest positive float16
LARGEST_HALF = 65504.0
RESIDUAL_STEPS = 8  # steps of the residual plane in one step of the base plane

# Candidate scales put the largest magnitude at 2^(b-1) + offset steps: -1 keeps it on the grid's shorter
# side, 0 is the range scale, and more clips it. Clipping one element by d steps costs d^2 and refines the
# others by about G d / (6 2^(b-1)) in all, so at 4 bits and G = 128 the break-even is below 3 steps.
SEARCH_OFFSETS = tuple(offset / 4 for offset in range(-4, 13))

# Among 4-bit scales whose error is this close to the least, the one that leaves the residual plane least
# error is taken, by `int4` and `layered` alike, so that their base planes are the same bytes: measured, the
# base loses 0.3-0.4% and both planes together gain 6-10% (docs/techniques.md).
BASE_TOLERANCE = 0.02


def largest_magnitudes(values: Array) -> Array:
    """Max |w| of each group, [n]."""
    xp = namespace(values)
    return xp.amax(xp.abs(values), 0)


def range_scales(values: Array, bits: int) -> Array:
    """Scales that map each group's element of largest magnitude to -2^(b-1); 0 for all-zero groups.

    They underflow to 0 where max |w| 2^(1-b) is at most 2^-25: what becomes of such groups, the caller says.
    """
    xp = namespace(values)
    highest, lowest = xp.amax(values, 0), xp.amin(values, 0)
    extreme = xp.where(highest > -lowest, highest, lowest)
    scales = round_to_half(xp.clip(extreme * -(2.0 ** (1 - bits)), -LARGEST_HALF, LARGEST_HALF))
    return xp.where(scales == 0, 0.0, scales)  # never -0, so that an all-zero group has one spelling


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
    """Scales of least squared error among SEARCH_OFFSETS, both signs and a refit; 0 for all-zero groups.

    At 4 bits, of the scales within BASE_TOLERANCE of the least error, the best base of a residual plane.
    Never worse than `range_scales`. Every weight counts the same. `values` must not require gradients.
    """
    xp = namespace(values)
    scales, errors = candidate_scales(values, bits)
    best, least = first_lowest(scales, errors)
    fitted, fitted_errors = refit_scales(values, best, bits)
    if bits != 4:
        chosen = xp.where(fitted_errors < least, fitted, best)
    else:
        scales = xp.concatenate([scales, fitted[None]])
        errors = xp.concatenate([errors, fitted_errors[None]])
        chosen, _ = first_lowest(scales, residual_errors(values, scales, errors))
    return xp.where(largest_magnitudes(values) == 0, 0.0, chosen)


def candidate_scales(values: Array, bits: int) -> tuple[Array, Array]:
    """Every candidate scale and its squared error, [candidates, n] each."""
    xp = namespace(values)
    largest = largest_magnitudes(values)
    candidates, candidate_errors = [], []
    scaled, rounded, scratch = (xp.empty_like(values) for _ in range(3))
    half = 2 ** (bits - 1)
    for offset in SEARCH_OFFSETS:
        steps = round_to_half(xp.clip(largest / (half + offset), SMALLEST_HALF, LARGEST_HALF))
        xp.multiply(values, 1.0 / steps, out=scaled)
        xp.round(scaled, out=rounded)
        for sign, low in ((1.0, -half), (-1.0, 1 - half)):  # a negative scale mirrors the grid
            xp.clip(rounded, low, low + 2 * half - 1, out=scratch)
            xp.subtract(scratch, scaled, out=scratch)
            xp.multiply(scratch, scratch, out=scratch)
            candidates.append(sign * steps)
            candidate_errors.append(sum_rows(scratch) * (steps * steps))
    return xp.stack(candidates), xp.stack(candidate_errors)


def first_lowest(scales: Array, errors: Array) -> tuple[Array, Array]:
    """Of [candidates, n], each group's scale of least error (the first, among equals) and that error."""
    xp = namespace(errors)
    best, least = scales[0], errors[0]
    for row in range(1, errors.shape[0]):
        better = errors[row] < least
        best, least = xp.where(better, scales[row], best), xp.where(better, errors[row], least)
    return best, least


def residual_errors(values: Array, scales: Array, errors: Array) -> Array:
    """Squared errors with a residual plane, for candidates close to the least error; infinite for the others.

    Close is within BASE_TOLERANCE, and not above the error of the range scale.
    """
    xp = namespace(values)
    simple = range_scales(values, 4)
    simple_errors = squared_errors(values, nearest_codes(values, simple, 4), simple)
    least = xp.amin(errors, 0)
    limits = xp.maximum(least, xp.minimum((1 + BASE_TOLERANCE) * least, simple_errors))
    candidates, groups = xp.where(errors <= limits)
    left, chosen = take_columns(values, groups), scales[candidates, groups]
    for step in (
        chosen,
        1.0 / RESIDUAL_STEPS,
    ):  # the base plane, then the residual plane, in units of its step
        left /= step
        left -= xp.clip(xp.round(left), -8, 7)
    left *= left
    results = xp.full_like(errors, float("inf"))
    results[candidates, groups] = sum_rows(left) * (chosen / RESIDUAL_STEPS) ** 2
    return results


def refit_scales(values: Array, scales: Array, bits: int) -> tuple[Array, Array]:
    """Least-squares scales for the codes that `scales` give, s = <w, q> / <q, q>, and their errors.

    The errors are those of the nearest codes for the new scale, after its rounding to float16; a refit that
    rounding made worse has an error above the old one, and one that underflows has infinite error.
    """
    xp = namespace(values)
    codes = nearest_codes(values, scales, bits)
    norms = sum_rows(codes * codes)
    fitted = sum_rows(values * codes) / xp.where(norms == 0, 1.0, norms)
    fitted = round_to_half(xp.clip(fitted, -LARGEST_HALF, LARGEST_HALF))
    errors = squared_errors(values, nearest_codes(values, fitted, bits), fitted)
    return fitted, xp.where(fitted == 0, float("inf"), errors)
