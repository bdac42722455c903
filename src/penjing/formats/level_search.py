"""Scales for grids of any levels (tables, nf4, mxfp4), groups side by side as in `grouped`."""

from __future__ import annotations

from penjing.formats.grids import Grid
from penjing.formats.grouped import (
    LARGEST_HALF,
    SMALLEST_HALF,
    largest_magnitudes,
    squared_errors,
)
from penjing.formats.namespace import Array, namespace, round_to_half, sum_rows

# Scales as parts of the one that puts the largest magnitude on the grid's own largest. The next level below
# is at about 0.8 of it: beyond that, clipping costs more than the rest can gain.
SEARCH_FACTORS = (1.0, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1)
FEW_LEVELS_FACTORS = (0.6, 0.7)  # more of them for four levels, which lie farther apart
POWER_FACTORS = (1.0, 0.5, 2.0)  # of scales that are powers of two
# Candidates are compared by a table of nearest levels, with so many entries to either side of 0.
LOOKUP_REACH = 2048
LARGEST_POWER = 2.0**15  # of two, in float16


def powers_of_two(largest: Array) -> Array:
    """2^(floor(log2 max|w|) - 2) [n], 0 for all-zero groups: the rule of OCP Microscaling (MX) 1.0 for E2M1.

    The largest magnitude, 6 to 8 times as large, is clipped where it is above 6.
    """
    xp = namespace(largest)
    _, exponents = xp.frexp(largest)  # largest is in [2^(exponent - 1), 2^exponent)
    powers = xp.ldexp(xp.asarray(largest * 0 + 1), exponents - 3)
    return xp.where(largest == 0, 0.0, powers)


def search_levels(values: Array, grid: Grid, exact: Array, *, powers: bool) -> Array:
    """Scales [n] of least squared error among parts of `exact` (of either sign) and a refit.

    powers: scales stay powers of two, and positive. Never worse than `exact`, rounded to float16, but for
    what the table of nearest levels rounds.
    """
    xp = namespace(values)
    best, least = None, None
    lookup = nearest_levels(values, grid)
    most = LARGEST_POWER if powers else LARGEST_HALF
    inverse = LOOKUP_REACH / max(grid.highest, -grid.lowest)
    factors: tuple[float, ...] = POWER_FACTORS if powers else SEARCH_FACTORS
    if len(grid.levels) <= 4:
        factors += FEW_LEVELS_FACTORS
    for factor in factors:
        steps = round_to_half(xp.clip(xp.abs(exact) * factor, SMALLEST_HALF, most))
        for sign in (1.0,) if powers else (1.0, -1.0):
            scales = xp.where(exact < 0, -steps, steps) * sign
            places = (
                xp.clip(xp.round(values * (inverse / scales)), -LOOKUP_REACH, LOOKUP_REACH) + LOOKUP_REACH
            )
            errors = squared_errors(values, lookup[xp.asarray(places, dtype=xp.int64)], scales)
            if best is None:
                best, least = scales, errors
            better = errors < least
            best, least = xp.where(better, scales, best), xp.where(better, errors, least)
    if not powers:
        fitted = refit_levels(values, grid, best)
        errors = squared_errors(values, levels_of(values, grid, fitted), fitted)
        better = (errors < least) & (fitted != 0)
        best = xp.where(better, fitted, best)
    return xp.where(largest_magnitudes(values) == 0, 0.0, best)


def nearest_levels(values: Array, grid: Grid) -> Array:
    """The nearest levels of 2 LOOKUP_REACH + 1 equal steps across the grid, in the library of `values`."""
    xp = namespace(values)
    reach = max(grid.highest, -grid.lowest) / LOOKUP_REACH
    places = xp.asarray(xp.arange(-LOOKUP_REACH, LOOKUP_REACH + 1), dtype=xp.float32) * reach
    return levels_of(places[None], grid, places[:1] * 0 + 1)[0]


def levels_of(values: Array, grid: Grid, scales: Array) -> Array:
    """Levels [G, n] of the nearest codes, in steps of the scale."""
    return grid.values(grid.nearest(values, scales), scales * 0 + 1)


def refit_levels(values: Array, grid: Grid, scales: Array) -> Array:
    """Least-squares scales for the codes that `scales` give, rounded to float16."""
    xp = namespace(values)
    levels = levels_of(values, grid, scales)
    norms = sum_rows(levels * levels)
    fitted = sum_rows(values * levels) / xp.where(norms == 0, 1.0, norms)
    return round_to_half(xp.clip(fitted, -LARGEST_HALF, LARGEST_HALF))
