"""A weight matrix into one of the artifact's formats, without data, and back: `encode` and `decode`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError, NonFiniteWeightError
from penjing.formats import grouped, tiles
from penjing.formats.codes import TABLE_BITS, dequantize, grid_of
from penjing.formats.encoded import FLOAT_BYTES, Encoded, dtype_of, part_sizes
from penjing.formats.packing import format_of, pack, unpack
from penjing.formats.rounding import ScaleChoice, round_rows
from penjing.formats.table_fit import fit_table
from penjing.formats.tiles import TILE_ROWS, padded_rows
from penjing.spec import Tier, WeightFormat

CHUNK_WEIGHTS = 1 << 20  # weights turned to float32 at a time: bounds memory
ROW_PARTS = ("codes", "high", "scales", "zeros", "residual")  # parts that a tile of rows has a piece of


def encode(
    weight: NDArray[Any],
    format: WeightFormat,
    scales: ScaleChoice,
    name: str,
    table: NDArray[np.int8] | None = None,
) -> Encoded:
    """Store a float32, float16 or bfloat16 matrix [N, K] in a format.

    scales: how codes choose theirs, `search` (least squared error) or `range` (largest magnitude).
    name: the tensor, for error messages. table: the levels int8 [16] of a format of TABLE_BITS, where they
    are known; by default they are fitted to the matrix. The result does not depend on how the work is cut up,
    and takes tens of MB beside input and output. Raises NonFiniteWeightError for NaN or Inf, and FormatError
    for another dtype or shape, or where a scale overflows float16.
    """
    if weight.ndim != 2 or weight.size == 0:
        raise FormatError(f"{name}: shape {list(weight.shape)} is not a matrix with rows and columns")
    own_format = next((key for key in FLOAT_BYTES if dtype_of(key) == weight.dtype), None)
    if own_format is None:
        raise FormatError(f"{name}: dtype {weight.dtype} cannot be encoded; convert it to fp32, fp16 or bf16")
    if format.name == "keep":
        return encode_float(weight, own_format, name)
    if format.name in TABLE_BITS and table is None:
        chunks = (block.astype(np.float32, copy=False) for _, block in row_chunks(weight, name))
        table = fit_table(chunks, format.group_size, TABLE_BITS[format.name])
    return encode_codes(weight, format, scales, name, table)


def encode_float(weight: NDArray[Any], format: str, name: str) -> Encoded:
    """Elements as they are, in tile order."""
    rows, columns = weight.shape
    codes = np.zeros(part_sizes(format, rows, columns, 0).codes, np.uint8)
    row_bytes = columns * weight.itemsize
    for first, block in row_chunks(weight, name):
        missing = padded_rows(len(block)) - len(block)
        part = tiles.pack_elements(np.pad(block, ((0, missing), (0, 0))) if missing else block)
        codes[first * row_bytes : first * row_bytes + part.size] = part
    return Encoded(format, rows, columns, 0, codes)


def encode_codes(
    weight: NDArray[Any],
    format: WeightFormat,
    choice: ScaleChoice,
    name: str,
    table: NDArray[np.int8] | None,
) -> Encoded:
    """Codes and all that goes with them, a chunk of rows at a time."""
    rows, columns = weight.shape
    sizes = part_sizes(format.name, rows, columns, format.group_size, format.asymmetric)
    whole = {part: np.empty(getattr(sizes, part), np.uint8) for part in ROW_PARTS if getattr(sizes, part)}
    tiny_groups = 0
    for first, block in row_chunks(weight, name):
        piece = pack(round_rows(block.astype(np.float32, copy=False), format, choice, name, table))
        tiny_groups += piece.tiny_groups
        for part, target in whole.items():
            data = getattr(piece, part).view(np.uint8)
            start = first * (target.size // padded_rows(rows))
            target[start : start + data.size] = data
    return Encoded(
        format.name,
        rows,
        columns,
        format.group_size,
        codes=whole["codes"],
        scales=whole["scales"].view(np.uint16),
        residual=whole.get("residual"),
        high=whole.get("high"),
        zeros=whole.get("zeros"),
        table=table,
        tiny_groups=tiny_groups,
    )


def decode(encoded: Encoded, tier: Tier = "best") -> NDArray[np.float32]:
    """The float32 matrix [rows, columns] that `encoded` stands for at a tier (docs/artifact.md, "Values")."""
    rows, columns = encoded.rows, encoded.columns
    if encoded.format in FLOAT_BYTES:
        elements = tiles.unpack_elements(encoded.codes, dtype_of(encoded.format), columns)
        return np.ascontiguousarray(elements[:rows].astype(np.float32, copy=False))
    result = np.empty((rows, columns), np.float32)
    step = chunk_rows(encoded.padded_columns)
    for first in range(0, rows, step):
        result[first : first + step] = dequantize(unpack(rows_of(encoded, first, step)), tier)
    return result


def rows_of(encoded: Encoded, first: int, count: int) -> Encoded:
    """A view of whole tiles of rows [first, first + count), or as many as there are."""
    rows = padded_rows(encoded.rows)
    last = min(first + count, rows)

    def piece(array: NDArray[Any] | None) -> Any:
        return None if array is None else array[len(array) * first // rows : len(array) * last // rows]

    return Encoded(
        encoded.format,
        min(last, encoded.rows) - first,
        encoded.columns,
        encoded.group_size,
        codes=piece(encoded.codes),
        scales=piece(encoded.scales),
        residual=piece(encoded.residual),
        high=piece(encoded.high),
        zeros=piece(encoded.zeros),
        table=encoded.table,
    )


def tiny_notice(name: str, encoded: Encoded) -> str:
    """A line to print for a matrix with groups too small for float16's scales, the smallest being 2^-24."""
    count = encoded.tiny_groups
    error = grid_of(format_of(encoded), encoded.table).widest_gap * grouped.SMALLEST_HALF / 2
    return f"{count} groups of {name} are below float16's smallest scale: stored within {error:.2g}"


def chunk_rows(columns: int) -> int:
    """Rows handled at a time: whole tiles of about CHUNK_WEIGHTS weights."""
    return max(1, CHUNK_WEIGHTS // (columns * TILE_ROWS)) * TILE_ROWS


def row_chunks(weight: NDArray[Any], name: str) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows) in order, whole tiles but for the last. NonFiniteWeightError for NaN or Inf."""
    step = chunk_rows(weight.shape[1])
    for first in range(0, weight.shape[0], step):
        block = weight[first : first + step]
        if not np.isfinite(block).all():
            raise NonFiniteWeightError(f"{name}: NaN or Inf among the weights; the checkpoint is damaged")
        yield first, block
