"""The compiled core: matrix products in tile order, and the choice of instruction set.

Results do not depend on the instruction set's name, the number of threads or how many tokens share a call: an
output element is one fixed sequence of operations (csrc/kernels.h), which `reference` repeats in numpy.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penjing.kernels import _core
from penjing.kernels._core import Choice, Matrix
from penjing.spec import Tier

__all__ = [
    "Choice",
    "Matrix",
    "PackedRows",
    "available_isas",
    "crc32c",
    "crc32c_each",
    "default_isa",
    "dequantize_row",
    "linear",
    "linear_quantized",
    "quantize_rows",
]


class PackedRows(NamedTuple):
    """Rows of int8 activations as the kernels read them: block after block, the fewest of at most 16 tokens,
    nearly equal.

    codes: of each block int8 [padded columns / 4, tokens of the block, 4]. scales, sums: of each block
    [groups, tokens of the block]. All are flat.
    """

    tokens: int
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    sums: NDArray[np.int32]


def available_isas() -> list[str]:
    """Instruction sets that this CPU can run, best first: avx512, avx2vnni, avx2, scalar."""
    return _core.available_kernels()


@functools.cache
def default_isa() -> str:
    """The instruction set that kernels use unless told otherwise: the best one, or PENJING_ISA.

    Says on stderr, once, if PENJING_ISA cannot be followed, or if only the slow scalar kernels can run.
    """
    available = available_isas()
    wanted = os.environ.get("PENJING_ISA")
    if wanted is None or wanted in available:
        if wanted is None and available[0] == "scalar":
            print("penjing: this CPU has no AVX2; the scalar kernels are many times slower", file=sys.stderr)
        return wanted or available[0]
    choices = ", ".join(available)
    print(f"penjing: PENJING_ISA={wanted} cannot run here ({choices}); using {available[0]}", file=sys.stderr)
    return available[0]


def quantize_rows(x: NDArray[Any], group_size: int, isa: str | None = None) -> PackedRows:
    """Activations [tokens, columns] to int8 per token and group of 32, 64 or 128 columns."""
    rows = np.ascontiguousarray(x, np.float32)
    tokens, columns = rows.shape
    groups = -(-columns // group_size)
    codes = np.empty(tokens * groups * group_size, np.int8)
    scales = np.empty(tokens * groups, np.float32)
    sums = np.empty(tokens * groups, np.int32)
    _core.quantize_rows(rows, group_size, isa or default_isa(), codes, scales, sums)
    return PackedRows(tokens, codes, scales, sums)


def linear(
    matrix: Matrix, x: NDArray[Any], tier: Tier = "best", isa: str | None = None, threads: int = 1
) -> NDArray[np.float32]:
    """x [tokens, columns] times the matrix transposed: float32 [tokens, rows].

    Integer matrices take x quantized by `quantize_rows` with their own group size. Threads are started for
    the call. Raises ValueError for shapes that do not fit.
    """
    if matrix.is_integer:
        rows = quantize_rows(x, matrix.group_size, isa)
        return linear_quantized(matrix, rows, tier, isa, threads)
    values = np.ascontiguousarray(x, np.float32)
    out = np.empty((values.shape[0], matrix.rows), np.float32)
    _core.linear_float(matrix, values, isa or default_isa(), threads, out)
    return out


def linear_quantized(
    matrix: Matrix, rows: PackedRows, tier: Tier = "best", isa: str | None = None, threads: int = 1
) -> NDArray[np.float32]:
    """The product of an integer matrix and rows that are quantized already: float32 [tokens, rows]."""
    out = np.empty((rows.tokens, matrix.rows), np.float32)
    _core.linear_int(matrix, tier, *rows, isa or default_isa(), threads, out)
    return out


def dequantize_row(
    matrix: Matrix, row: int, tier: Tier = "best", isa: str | None = None
) -> NDArray[np.float32]:
    """One row of a matrix of any format, float32 [columns]. Raises ValueError for a row outside it."""
    out = np.empty(matrix.columns, np.float32)
    _core.dequantize_row(matrix, row, tier, isa or default_isa(), out)
    return out


def crc32c(buffer: bytes | bytearray | memoryview | NDArray[Any], threads: int = 1) -> int:
    """CRC-32C (Castagnoli) of a contiguous buffer's bytes."""
    return _core.crc32c([np.frombuffer(buffer, np.uint8)], threads)[0]


def crc32c_each(buffers: Sequence[NDArray[np.uint8]], threads: int) -> list[int]:
    """CRC-32C of each of several arrays of bytes; threads share all of them."""
    return _core.crc32c(list(buffers), threads)
