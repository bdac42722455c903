"""Rows of a matrix to codes, without data: scales by range or by search, then the nearest codes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats import grouped
from penjing.formats.asymmetric import exact_spans, range_zeros, search_zeros
from penjing.formats.codes import TABLE_BITS, UNIFORM_BITS, Codes, grid_of
from penjing.formats.grids import Grid
from penjing.formats.level_search import powers_of_two, search_levels
from penjing.formats.namespace import round_to_half
from penjing.spec import WeightFormat

ScaleChoice = Literal["search", "range"]
Floats = NDArray[np.float32]

SEARCH_WEIGHTS = 1 << 15  # weights searched at a time: the scratch arrays stay in the level-2 cache


def round_rows(
    rows: Floats,
    format: WeightFormat,
    choice: ScaleChoice,
    name: str,
    table: NDArray[np.int8] | None = None,
) -> Codes:
    """Float32 rows [N, K] as codes; `table`: the levels of a format of TABLE_BITS.

    A scale that float16 rounds to zero becomes its smallest, 2^-24, or the group becomes zero if that is
    nearer: errors stay within half a step, and `Codes.tiny_groups` counts such groups. Raises FormatError,
    naming the tensor, where a scale overflows.
    """
    grid = grid_of(format, table)
    groups = to_groups(rows, format.group_size)
    exact = exact_scales(groups, format, grid)
    largest = float(np.abs(exact).max())
    if largest > grouped.LARGEST_HALF:
        raise FormatError(
            f"{name}: a scale of {largest:.3g} overflows float16; keep this tensor in its own dtype"
        )
    scales, zeros = choose_scales(groups, exact, format, grid, choice)
    tiny = (round_to_half(exact) == 0) & (exact != 0)
    codes = grid.nearest(groups, scales, zeros)
    if tiny.any():
        left = np.abs(groups - grid.values(codes, scales, zeros)).max(axis=0)
        lost = tiny & (grouped.largest_magnitudes(groups) <= left)
        scales = np.where(lost, np.float32(0), scales)
        zeros = None if zeros is None else np.where(lost, np.float32(0), zeros)
        codes = grid.nearest(groups, scales, zeros)
    residual = None
    if format.name == "layered":
        second = grouped.residual_codes(groups, codes + np.float32(grid.lowest), scales)
        residual = from_groups(second + np.float32(8), rows.shape).astype(np.uint8)
    shape = (len(rows), -1)
    return Codes(
        format,
        from_groups(codes, rows.shape).astype(np.uint8),
        scales.astype(np.float16).reshape(shape),
        zeros=None if zeros is None else zeros.astype(np.uint8).reshape(shape),
        table=table,
        residual=residual,
        tiny_groups=int(np.count_nonzero(tiny)),
    )


def exact_scales(values: Floats, format: WeightFormat, grid: Grid) -> Floats:
    """Scales of groups [G, n] that hold all of their range, before rounding; 0 for all-zero groups."""
    if format.asymmetric:
        spans: Floats = exact_spans(values, UNIFORM_BITS[format.name])
        return spans
    largest = grouped.largest_magnitudes(values)
    if format.name == "mxfp4":
        powers: Floats = powers_of_two(largest)
        return powers
    if format.name in TABLE_BITS:
        sign = np.where(values.max(axis=0) > -values.min(axis=0), np.float32(-1), np.float32(1))
        largest = largest * sign
    scales: Floats = largest / np.float32(max(grid.highest, -grid.lowest))
    return scales


def choose_scales(
    values: Floats, exact: Floats, format: WeightFormat, grid: Grid, choice: ScaleChoice
) -> tuple[Floats, Floats | None]:
    """Scales, and zero points where there are any, of groups [G, n] by either rule.

    fp8 has nothing to search for: its steps are a part of the weights, at any scale.
    """
    if choice == "range" or format.name == "fp8":
        return range_choice(values, exact, format)
    scales = np.empty_like(exact)
    zeros = np.empty_like(exact) if format.asymmetric else None
    width = max(1, SEARCH_WEIGHTS // values.shape[0])
    for start in range(0, values.shape[1], width):
        part = np.ascontiguousarray(values[:, start : start + width])
        span = slice(start, start + part.shape[1])
        if zeros is not None:
            scales[span], zeros[span] = search_zeros(part, UNIFORM_BITS[format.name])
        elif grid.uniform:
            scales[span] = grouped.search_scales(part, grid.bits)
        else:
            scales[span] = search_levels(part, grid, exact[span], powers=format.name == "mxfp4")
    return scales, zeros


def range_choice(values: Floats, exact: Floats, format: WeightFormat) -> tuple[Floats, Floats | None]:
    """Scales that hold a group's range, at least float16's smallest, and zero points."""
    name = format.name
    if name in UNIFORM_BITS and not format.asymmetric:
        scales = grouped.range_scales(values, UNIFORM_BITS[name])
    else:
        scales = round_to_half(exact)
    scales = np.where((scales == 0) & (exact != 0), np.float32(grouped.SMALLEST_HALF), scales)
    zeros = range_zeros(values, scales, UNIFORM_BITS[name]) if format.asymmetric else None
    return scales, zeros


def to_groups(rows: Floats, group_size: int) -> Floats:
    """Rows [N, K] to groups [G, n], n over (row, group); the last group of a row is padded with zeros."""
    missing = -rows.shape[1] % group_size
    padded = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    return np.ascontiguousarray(padded.reshape(-1, group_size).T)


def from_groups(groups: Floats, shape: tuple[int, ...]) -> Floats:
    """The inverse of `to_groups`: [N, K] without padding."""
    return groups.T.reshape(shape[0], -1)[:, : shape[1]]
