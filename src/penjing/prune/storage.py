"""What zeros save once they are dropped: nonzero weights with column numbers, or with one bit a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError


@dataclass(frozen=True, eq=False)
class Sparse:
    """A matrix [N, K] as its nonzero weights, row by row (compressed sparse rows).

    row_starts: uint32 or uint64 [N + 1]. columns: uint16, uint32 or uint64 [nonzeros], the narrowest that
    holds K - 1. values: [nonzeros], in the matrix's own dtype.
    """

    shape: tuple[int, int]
    row_starts: NDArray[Any]
    columns: NDArray[Any]
    values: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all three arrays: with 16-bit values and columns, half must go to gain any."""
        return self.row_starts.nbytes + self.columns.nbytes + self.values.nbytes


def to_sparse(weight: NDArray[Any]) -> Sparse:
    """Store the nonzeros of a matrix [N, K]. Raises FormatError if it is not one."""
    check_matrix(weight)
    rows, columns = np.nonzero(weight)
    starts = np.zeros(weight.shape[0] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=weight.shape[0]), out=starts[1:])
    row_type = np.uint32 if len(rows) < 2**32 else np.uint64
    column_type = next(
        kind for kind in (np.uint16, np.uint32, np.uint64) if weight.shape[1] - 1 <= np.iinfo(kind).max
    )
    shape = (weight.shape[0], weight.shape[1])
    return Sparse(shape, starts.astype(row_type), columns.astype(column_type), weight[rows, columns])


def to_dense(sparse: Sparse) -> NDArray[Any]:
    """The matrix again, zeros included."""
    dense = np.zeros(sparse.shape, sparse.values.dtype)
    rows = np.repeat(np.arange(sparse.shape[0]), np.diff(sparse.row_starts).astype(np.int64))
    dense[rows, sparse.columns] = sparse.values
    return dense


@dataclass(frozen=True, eq=False)
class Masked:
    """A matrix [N, K] as its nonzero weights and one bit a weight, which says where they stand.

    bits: uint8 [N, ceil(K / 8)], the first column in the highest bit. values: [nonzeros], row by row, in the
    matrix's own dtype. Under an N:M pattern every group has N of them (short of weights that are 0 anyway),
    and four bits for 2:4 are what two positions of two bits take.
    """

    shape: tuple[int, int]
    bits: NDArray[np.uint8]
    values: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays: with 16-bit values, a sixteenth must go to gain any."""
        return self.bits.nbytes + self.values.nbytes


def to_masked(weight: NDArray[Any]) -> Masked:
    """Store the nonzeros of a matrix [N, K]. Raises FormatError if it is not one."""
    check_matrix(weight)
    kept = weight != 0
    return Masked((weight.shape[0], weight.shape[1]), np.packbits(kept, axis=1), weight[kept])


def unmask(masked: Masked) -> NDArray[Any]:
    """The matrix again, zeros included."""
    dense = np.zeros(masked.shape, masked.values.dtype)
    dense[np.unpackbits(masked.bits, axis=1, count=masked.shape[1]).astype(bool)] = masked.values
    return dense


def check_matrix(weight: NDArray[Any]) -> None:
    """Raise FormatError for what is not a matrix."""
    if weight.ndim != 2:
        raise FormatError(f"shape {list(weight.shape)} is not a matrix: only matrices are stored sparsely")
