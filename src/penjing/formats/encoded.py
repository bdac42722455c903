"""A weight matrix in one of the artifact's formats: `encode` writes it, `decode` reads it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError, NonFiniteWeightError
from penjing.formats import grouped, tiles
from penjing.formats.tiles import TILE_ROWS, padded_rows
from penjing.spec import Tier, WeightFormat

ScaleChoice = Literal["search", "range"]

FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}  # of an element
CODE_BITS = {"int8": 8, "int4": 4, "layered": 4}  # of the plane in `codes`
CHUNK_WEIGHTS = 1 << 20  # weights turned to float32 at a time: bounds memory
SEARCH_WEIGHTS = 1 << 15  # weights searched at a time: the scratch arrays stay in the level-2 cache


@dataclass(frozen=True)
class PartSizes:
    """Bytes of each stored part of a matrix; 0 for a part that the format does not have."""

    codes: int
    scales: int
    residual: int

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.codes + self.scales + self.residual


def part_sizes(format: str, rows: int, columns: int, group_size: int) -> PartSizes:
    """Bytes of a [rows, columns] matrix, padding included. FormatError if the format is unknown."""
    if format in FLOAT_BYTES:
        return PartSizes(padded_rows(rows) * columns * FLOAT_BYTES[format], 0, 0)
    if format not in CODE_BITS:
        known = ", ".join([*FLOAT_BYTES, *CODE_BITS])
        raise FormatError(f"unknown matrix format {format!r}: use one of {known}")
    groups = -(-columns // group_size)
    codes = padded_rows(rows) * groups * group_size * CODE_BITS[format] // 8
    return PartSizes(codes, padded_rows(rows) * groups * 2, codes if format == "layered" else 0)


@dataclass(frozen=True, eq=False)
class Encoded:
    """A weight matrix [rows, columns] in tile order (docs/artifact.md).

    format: fp32, fp16, bf16, int8, int4 or layered. group_size: columns a scale covers, 0 for float formats.
    codes: uint8, the packed codes, or the bytes of the elements. scales: uint16, float16 bits of [tiles,
    groups, 16] flattened, or None. residual: uint8, the second plane of a layered matrix, or None.
    Raises FormatError if a part has another size than the format says.
    """

    format: str
    rows: int
    columns: int
    group_size: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16] | None = None
    residual: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        wanted = part_sizes(self.format, self.rows, self.columns, self.group_size)
        for part, expected in (
            ("codes", wanted.codes),
            ("scales", wanted.scales),
            ("residual", wanted.residual),
        ):
            array = getattr(self, part)
            actual = 0 if array is None else array.nbytes
            if actual != expected:
                shape = f"{self.format} [{self.rows}, {self.columns}]"
                raise FormatError(f"{shape}: {part} has {actual} bytes, and {expected} are expected")

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, padding included."""
        return part_sizes(self.format, self.rows, self.columns, self.group_size).total


def dtype_of(format: str) -> np.dtype[Any]:
    """The elements of a float format. What only reads integers never loads ml_dtypes."""
    if format == "bf16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype({"fp32": np.float32, "fp16": np.float16}[format])


def encode(weight: NDArray[Any], format: WeightFormat, scales: ScaleChoice, name: str) -> Encoded:
    """Store a float32, float16 or bfloat16 matrix [N, K] in a format.

    scales: how integer formats choose theirs, `search` (least squared error) or `range` (largest magnitude).
    name: the tensor, for error messages. The result does not depend on how the work is cut up, and takes
    tens of MB beside input and output. Raises NonFiniteWeightError for NaN or Inf, and FormatError for
    another dtype or shape, or where float16 cannot hold a scale.
    """
    if weight.ndim != 2 or weight.size == 0:
        raise FormatError(f"{name}: shape {list(weight.shape)} is not a matrix with rows and columns")
    own_format = next((key for key in FLOAT_BYTES if dtype_of(key) == weight.dtype), None)
    if own_format is None:
        raise FormatError(f"{name}: dtype {weight.dtype} cannot be encoded; convert it to fp32, fp16 or bf16")
    if format.name == "keep":
        return encode_float(weight, own_format, name)
    return encode_integer(weight, format, scales, name)


def encode_float(weight: NDArray[Any], format: str, name: str) -> Encoded:
    """Elements as they are, in tile order."""
    rows, columns = weight.shape
    sizes = part_sizes(format, rows, columns, 0)
    codes = np.zeros(sizes.codes, np.uint8)
    row_bytes = columns * weight.itemsize
    for first, block in row_chunks(weight, columns):
        check_finite(block, name)
        part = tiles.pack_elements(block)
        codes[first * row_bytes : first * row_bytes + part.size] = part
    return Encoded(format, rows, columns, 0, codes)


def encode_integer(weight: NDArray[Any], format: WeightFormat, choice: ScaleChoice, name: str) -> Encoded:
    """Codes and scales (and residual codes) in tile order, a chunk of rows at a time."""
    rows, columns = weight.shape
    group_size, bits = format.group_size, CODE_BITS[format.name]
    sizes = part_sizes(format.name, rows, columns, group_size)
    codes, scale_bits = np.empty(sizes.codes, np.uint8), np.empty(sizes.scales // 2, np.uint16)
    residual = np.empty(sizes.residual, np.uint8) if format.name == "layered" else None
    padded_columns = -(-columns // group_size) * group_size
    for first, block in row_chunks(weight, padded_columns):
        check_finite(block, name)
        values = to_groups(block.astype(np.float32, copy=False), group_size)
        chosen = choose_scales(values, bits, choice, name)
        quantized = grouped.nearest_codes(values, chosen, bits)
        place = first * padded_columns // group_size
        scale_bits[place : place + chosen.size] = chosen.astype(np.float16).view(np.uint16)
        store(codes, first * padded_columns * bits // 8, quantized, padded_columns, bits)
        if residual is not None:
            second = grouped.residual_codes(values, quantized, chosen)
            store(residual, first * padded_columns // 2, second, padded_columns, 4)
    return Encoded(format.name, rows, columns, group_size, codes, scale_bits, residual)


def choose_scales(
    values: NDArray[np.float32], bits: int, choice: ScaleChoice, name: str
) -> NDArray[np.float32]:
    """Scales of groups [G, n] by either rule; refuses, by tensor name, what float16 cannot hold."""
    largest = grouped.largest_magnitudes(values)
    exact = largest * np.float32(2.0 ** (1 - bits))
    if exact.max() > grouped.LARGEST_HALF:
        raise FormatError(
            f"{name}: a scale of {exact.max():.3g} overflows float16; keep this tensor in its own dtype"
        )
    scales: NDArray[np.float32] = grouped.range_scales(values, bits)
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


def decode(encoded: Encoded, tier: Tier = "best") -> NDArray[np.float32]:
    """The float32 matrix [rows, columns] that `encoded` stands for at a tier (docs/artifact.md, "Values")."""
    rows, columns = encoded.rows, encoded.columns
    if encoded.format in FLOAT_BYTES:
        elements = tiles.unpack_elements(encoded.codes, dtype_of(encoded.format), columns)
        return np.ascontiguousarray(elements[:rows].astype(np.float32, copy=False))
    assert encoded.scales is not None
    group_size, bits = encoded.group_size, CODE_BITS[encoded.format]
    padded_columns = -(-columns // group_size) * group_size
    groups = padded_columns // group_size
    scales = (
        encoded.scales.view(np.float16).reshape(-1, groups, TILE_ROWS).transpose(0, 2, 1).reshape(-1, groups)
    )
    result = np.empty((rows, columns), np.float32)
    step = chunk_rows(padded_columns)
    for first in range(0, rows, step):
        last = min(first + step, padded_rows(rows))
        codes = load(encoded.codes, first, last, padded_columns, bits)
        factors = scales[first:last].astype(np.float32)
        if encoded.residual is not None and tier == "best":
            codes = grouped.RESIDUAL_STEPS * codes + load(encoded.residual, first, last, padded_columns, 4)
            factors /= grouped.RESIDUAL_STEPS
        values = (codes.reshape(-1, groups, group_size) * factors[:, :, None]).reshape(-1, padded_columns)
        result[first:last] = values[: rows - first, :columns]
    return result


def residual_saturation(encoded: Encoded) -> float:
    """The fraction of a layered matrix's residual codes at either end of [-8, 7].

    An element inside its base grid leaves at most half a base step, four residual steps, so codes at the ends
    belong to elements that the base plane clipped by more than the residual plane can give back.
    """
    if encoded.residual is None:
        raise FormatError(f"a {encoded.format} matrix has no residual plane")
    low, high = encoded.residual & 15, encoded.residual >> 4
    ends = sum(np.count_nonzero((part == 0) | (part == 15)) for part in (low, high))
    return ends / (encoded.rows * encoded.columns)


def chunk_rows(padded_columns: int) -> int:
    """Rows handled at a time: whole tiles of about CHUNK_WEIGHTS weights."""
    return max(1, CHUNK_WEIGHTS // (padded_columns * TILE_ROWS)) * TILE_ROWS


def row_chunks(weight: NDArray[Any], padded_columns: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows [whole tiles, padded_columns]) in order, padded with zeros right and below."""
    rows, columns = weight.shape
    step = chunk_rows(padded_columns)
    for first in range(0, rows, step):
        block = weight[first : first + step]
        missing = (padded_rows(block.shape[0]) - block.shape[0], padded_columns - columns)
        if any(missing):
            padded = np.zeros((padded_rows(block.shape[0]), padded_columns), weight.dtype)
            padded[: block.shape[0], :columns] = block
            block = padded
        yield first, block


def check_finite(block: NDArray[Any], name: str) -> None:
    """Raise NonFiniteWeightError if NaN or Inf is in the block."""
    if not np.isfinite(block).all():
        raise NonFiniteWeightError(f"{name}: NaN or Inf among the weights; the checkpoint is damaged")


def to_groups(block: NDArray[np.float32], group_size: int) -> NDArray[np.float32]:
    """Rows [N', K'] to groups [G, n], n over (tile, group, row): the order in which scales are stored."""
    parts = block.reshape(-1, TILE_ROWS, block.shape[1] // group_size, group_size).transpose(3, 0, 2, 1)
    return np.ascontiguousarray(parts).reshape(group_size, -1)


def store(
    target: NDArray[np.uint8], offset: int, codes: NDArray[np.float32], padded_columns: int, bits: int
) -> None:
    """Write signed codes [G, n] as unsigned codes in tile order, from byte `offset` on."""
    group_size = codes.shape[0]
    unsigned = (codes + 2.0 ** (bits - 1)).astype(np.uint8)
    parts = unsigned.reshape(group_size, -1, padded_columns // group_size, TILE_ROWS)
    block = parts.transpose(1, 3, 2, 0).reshape(-1, padded_columns)
    packed = tiles.pack_bytes(block) if bits == 8 else tiles.pack_nibbles(block)
    target[offset : offset + packed.size] = packed


def load(
    packed: NDArray[np.uint8], first: int, last: int, padded_columns: int, bits: int
) -> NDArray[np.float32]:
    """Signed codes [last - first, padded_columns] of whole tiles, as float32."""
    row_bytes = padded_columns * bits // 8
    part = packed[first * row_bytes : last * row_bytes]
    unsigned = (
        tiles.unpack_bytes(part, padded_columns) if bits == 8 else tiles.unpack_nibbles(part, padded_columns)
    )
    return unsigned.astype(np.float32) - np.float32(2 ** (bits - 1))
