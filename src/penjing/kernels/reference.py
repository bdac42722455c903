"""The numpy oracle of every kernel: docs/artifact.md, "Matrices" and "Activations", formula by formula.

Clear rather than quick, and exact: the float32 sums are the kernels' own sequence of fused multiply-adds, so
that a kernel can be asked for the same bits. Nothing here is shared with penjing.formats, which packs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.kernels import PackedRows
from penjing.spec import Tier

TILE_ROWS = 16
BLOCK_TOKENS = 16
SMALLEST_MAGNITUDE = np.float32(1e-30)  # groups below have scale 0
ELEMENTS: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
# Bits of a code in the low and in the high plane.
PLANES = {
    "int8": (8, 0),
    "int4": (4, 0),
    "layered": (4, 0),
    "int2": (2, 0),
    "int3": (2, 1),
    "int5": (4, 1),
    "int6": (4, 2),
    "table2": (2, 0),
    "table3": (2, 1),
    "table4": (4, 0),
    "nf4": (4, 0),
    "mxfp4": (4, 0),
    "fp8": (8, 0),
}
NF4 = (  # Dettmers et al. 2023, QLoRA, appendix E
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
FLOAT_CODES = ("nf4", "mxfp4", "fp8")  # codes whose levels are no whole numbers


class QuantizedRows(NamedTuple):
    """Activations as the formulas have them.

    codes: int8 [tokens, padded columns], zero in the padding. scales: float32 [tokens, groups].
    sums: int32 [tokens, groups], the sum of each group's codes.
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    sums: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Matrix:
    """The oracle's view of a matrix in tile order; the fields are those of penjing.kernels.Matrix."""

    format: str
    rows: int
    columns: int
    group_size: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16] | None = None
    residual: NDArray[np.uint8] | None = None
    high: NDArray[np.uint8] | None = None
    zeros: NDArray[np.uint8] | None = None
    table: NDArray[np.int8] | None = None

    @property
    def groups(self) -> int:
        """Groups of a row; 0 for float formats."""
        return -(-self.columns // self.group_size) if self.group_size else 0


def unpack_plane(packed: NDArray[np.uint8], columns: int, bits: int) -> NDArray[np.int32]:
    """Unsigned codes [padded rows, columns] of one plane, by the documented byte of each (row, column)."""
    row, k = np.arange(TILE_ROWS)[:, None], np.arange(columns)[None, :]
    tiles = packed.reshape(-1, TILE_ROWS * columns * bits // 8)
    line = 32 // bits  # columns of 64 bytes
    stored = tiles[:, 64 * (k // line) + 4 * row + k % 4].astype(np.int32)
    codes: NDArray[np.int32] = stored >> (bits * (k % line // 4)) & (2**bits - 1)
    return codes.reshape(-1, columns)


def unsigned_codes(matrix: Matrix) -> NDArray[np.int32]:
    """Codes [padded rows, padded columns] as stored."""
    columns = matrix.groups * matrix.group_size
    low_bits, high_bits = PLANES[matrix.format]
    codes = unpack_plane(matrix.codes, columns, low_bits)
    if matrix.high is not None:
        codes = codes + (unpack_plane(matrix.high, columns, high_bits) << low_bits)
    return codes


def signed_codes(matrix: Matrix, tier: Tier) -> NDArray[np.int32]:
    """What multiplies activations [padded rows, padded columns]: q, or 8 q + r for a layered `best`."""
    codes = unsigned_codes(matrix)
    if matrix.table is not None:
        levels: NDArray[np.int32] = matrix.table.astype(np.int32)[codes]
        return levels
    if matrix.zeros is not None:
        zeros = groups_of_rows(matrix.zeros, matrix).astype(np.int32)
        steps: NDArray[np.int32] = codes - np.repeat(zeros, matrix.group_size, axis=1)
        return steps
    codes = codes - (1 << (sum(PLANES[matrix.format]) - 1))
    if matrix.format == "layered" and tier == "best":
        assert matrix.residual is not None
        codes = 8 * codes + (unpack_plane(matrix.residual, codes.shape[1], 4) - 8)
    return codes


def float_levels(format: str) -> NDArray[np.float32]:
    """What every code of nf4, mxfp4 or fp8 stands for, scale apart; the NaN codes of fp8 are +-448."""
    if format == "fp8":
        levels: NDArray[np.float32] = (
            np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        )
        levels[[127, 255]] = 448, -448
        return levels
    if format == "mxfp4":
        positive = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
        return np.concatenate([positive, -positive])
    return np.array(NF4, np.float32)


def groups_of_rows(stored: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    """Scales or zero points [padded rows, groups]."""
    return stored.reshape(-1, matrix.groups, TILE_ROWS).transpose(0, 2, 1).reshape(-1, matrix.groups)


def weight_scales(matrix: Matrix, tier: Tier) -> NDArray[np.float32]:
    """Scales [padded rows, groups], an eighth of the stored ones for a layered `best`."""
    assert matrix.scales is not None
    step = np.float32(0.125 if matrix.format == "layered" and tier == "best" else 1.0)
    scales: NDArray[np.float32] = groups_of_rows(matrix.scales.view(np.float16), matrix).astype(np.float32)
    return scales * step


def elements(matrix: Matrix) -> NDArray[np.float32]:
    """Weights [rows, columns] of a float format."""
    stored = matrix.codes.view(ELEMENTS[matrix.format]).reshape(-1, matrix.columns, TILE_ROWS)
    weights: NDArray[np.float32] = stored.transpose(0, 2, 1).reshape(-1, matrix.columns).astype(np.float32)
    return weights[: matrix.rows]


def dequantize(matrix: Matrix, tier: Tier = "best") -> NDArray[np.float32]:
    """The float32 weights [rows, columns] that the matrix stands for."""
    if matrix.format in ELEMENTS:
        return elements(matrix)
    scales = np.repeat(weight_scales(matrix, tier), matrix.group_size, axis=1)
    if matrix.format in FLOAT_CODES:
        levels = float_levels(matrix.format)[unsigned_codes(matrix)]
    else:
        levels = signed_codes(matrix, tier).astype(np.float32)
    weights: NDArray[np.float32] = scales * levels
    return weights[: matrix.rows, : matrix.columns]


def dequantize_row(matrix: Matrix, row: int, tier: Tier = "best") -> NDArray[np.float32]:
    """One row of `dequantize`, float32 [columns]."""
    weights: NDArray[np.float32] = dequantize(matrix, tier)[row]
    return weights


def quantize_rows(x: NDArray[np.float32], group_size: int) -> QuantizedRows:
    """Activations [tokens, columns] to int8, each token and group with its own scale.

    A group with NaN or Inf has codes 0 and scale NaN, so that every output that depends on it is NaN.
    """
    tokens, columns = x.shape
    groups = -(-columns // group_size)
    padded = np.zeros((tokens, groups * group_size), np.float32)
    padded[:, :columns] = x
    values = padded.reshape(tokens, groups, group_size)
    largest = np.abs(values).max(axis=2)
    finite = np.isfinite(largest)
    used = finite & (largest >= SMALLEST_MAGNITUDE)
    divisor = np.where(used, largest, np.float32(1))
    inverse = np.where(used, np.float32(127) / divisor, np.float32(0))
    products = np.where(used[..., None], values, np.float32(0)) * inverse[..., None]
    codes = np.clip(np.rint(products), -127, 127).astype(np.int8)
    scales = np.where(used, divisor / np.float32(127), np.where(finite, np.float32(0), np.float32(np.nan)))
    sums = codes.sum(axis=2, dtype=np.int32)
    return QuantizedRows(codes.reshape(padded.shape), scales.astype(np.float32), sums)


def pack_rows(rows: QuantizedRows) -> PackedRows:
    """Rows in the order of the kernels."""
    tokens, padded = rows.codes.shape
    blocks = -(-tokens // BLOCK_TOKENS)
    bounds = [tokens * block // max(blocks, 1) for block in range(blocks + 1)]
    spans = [slice(begin, end) for begin, end in pairwise(bounds)]
    quads = rows.codes.reshape(tokens, padded // 4, 4)
    return PackedRows(
        tokens,
        np.concatenate([np.empty(0, np.int8), *(quads[span].transpose(1, 0, 2).ravel() for span in spans)]),
        np.concatenate([np.empty(0, np.float32), *(rows.scales[span].T.ravel() for span in spans)]),
        np.concatenate([np.empty(0, np.int32), *(rows.sums[span].T.ravel() for span in spans)]),
    )


def fma(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """a * b + c in float32, rounded once.

    The product is exact in float64. Its sum with c is rounded to odd there (if inexact, to the neighbour
    whose last bit is 1), so that rounding to float32 is the only rounding that can be seen (Boldo and
    Melquiond 2008).
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), np.asarray(c, np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    inexact = even & (error != 0) & np.isfinite(total)
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where(inexact, np.nextafter(total, towards), total)
    return odd.astype(np.float32)


def linear_int(matrix: Matrix, rows: QuantizedRows, tier: Tier = "best") -> NDArray[np.float32]:
    """Outputs [tokens, rows] of an integer matrix: an exact int32 sum a group, fused into a float32 sum."""
    codes, scales = signed_codes(matrix, tier), weight_scales(matrix, tier)
    total = np.zeros((rows.codes.shape[0], codes.shape[0]), np.float32)
    for group in range(matrix.groups):
        span = slice(group * matrix.group_size, (group + 1) * matrix.group_size)
        sums = rows.codes[:, span].astype(np.int32) @ codes[:, span].T
        factors = scales[:, group] * rows.scales[:, group, None]
        total = fma(sums.astype(np.float32), factors, total)
    return total[:, : matrix.rows]


def linear_float(matrix: Matrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs [tokens, rows] of a matrix of floats: one fused sum over k, ascending."""
    weights = dequantize(matrix)
    total = np.zeros((x.shape[0], matrix.rows), np.float32)
    for k in range(matrix.columns):
        total = fma(weights[None, :, k], x[:, k, None], total)
    return total


def linear(matrix: Matrix, x: NDArray[np.float32], tier: Tier = "best") -> NDArray[np.float32]:
    """x [tokens, columns] times the matrix transposed: float32 [tokens, rows]."""
    if matrix.format in ELEMENTS or matrix.format in FLOAT_CODES:
        return linear_float(matrix, x)
    return linear_int(matrix, quantize_rows(x, matrix.group_size), tier)


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
