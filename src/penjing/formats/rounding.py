"""Rows of a matrix to codes, without data: scales by range or by search, then the nearest codes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats import grouped
from penjing.formats.codes import UNIFORM_BITS, Codes
from penjing.spec import WeightFormat

ScaleChoice = Literal["search", "range"]
Floats = NDArray[np.float32]

SEARCH_WEIGHTS = 1 << 15  # weights searched at a time: the scratch arrays stay in the level-2 cache


def round_rows(rows: Floats, format: WeightFormat, choice: ScaleChoice, name: str) -> Codes:
    """Float32 rows [N, K] as codes. Raises FormatError, naming the tensor, for what float16 cannot hold."""
    groups = to_groups(rows, format.group_size)
    bits = UNIFORM_BITS[format.name]
    scales = choose_scales(groups, bits, choice, name)
    codes = grouped.nearest_codes(groups, scales, bits)
    residual = None
    if format.name == "layered":
        second = grouped.residual_codes(groups, codes, scales)
        residual = from_groups(second + np.float32(8), rows.shape).astype(np.uint8)
    return Codes(
        format,
        from_groups(codes + np.float32(2 ** (bits - 1)), rows.shape).astype(np.uint8),
        scales.astype(np.float16).reshape(len(rows), -1),
        residual=residual,
    )


def choose_scales(values: Floats, bits: int, choice: ScaleChoice, name: str) -> Floats:
    """Scales of groups [G, n] by either rule; refuses, by tensor name, what float16 cannot hold."""
    largest = grouped.largest_magnitudes(values)
    exact = largest * np.float32(2.0 ** (1 - bits))
    if exact.max() > grouped.LARGEST_HALF:
        raise FormatError(
            f"{name}: a scale of {exact.max():.3g} overflows float16; keep this tensor in its own dtype"
        )
    scales: Floats = grouped.range_scales(values, bits)
    lost = (scales == 0) & (largest > 0)
    if lost.any():
        raise FormatError(
            f"{name}: a group's largest weight is {largest[lost].min():.3g}, whose scale underflows float16; "
            "keep this tensor in its own dtype"
        )
    if choice == "search":
        width = max(1, SEARCH_WEIGHTS // values.shape[0])
        for start in range(0, values.shape[1], width):
            part = np.ascontiguousarray(values[:, start : start + width])
            scales[start : start + width] = grouped.search_scales(part, bits)
    return scales


def to_groups(rows: Floats, group_size: int) -> Floats:
    """Rows [N, K] to groups [G, n], n over (row, group); the last group of a row is padded with zeros."""
    missing = -rows.shape[1] % group_size
    padded = np.pad(rows, ((0, 0), (0, missing))) if missing else rows
    return np.ascontiguousarray(padded.reshape(-1, group_size).T)


def from_groups(groups: Floats, shape: tuple[int, ...]) -> Floats:
    """The inverse of `to_groups`: [N, K] without padding."""
    return groups.T.reshape(shape[0], -1)[:, : shape[1]]
