"""Unstructured magnitude pruning (Janowsky 1989; Han et al. 2015): keep the k largest |w|, zero the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from penjing.errors import FormatError, NonFiniteWeightError, SpecError
from penjing.formats.namespace import Array, is_finite, namespace, sorted_values
from penjing.spec import Spec


class MagnitudePruning(Spec):
    """keep: the fraction of each array's weights to keep, rounded to a whole count (ties to even)."""

    keep: float = Field(default=0.5, ge=0, le=1)


def prune_magnitude(weight: Array, config: MagnitudePruning) -> Array:
    """`keep_largest` with the count that `config.keep` makes of the array's size."""
    return keep_largest(weight, round(config.keep * len(weight.reshape(-1))))


def keep_largest(weight: Array, count: int) -> Array:
    """A copy of a numpy array or torch tensor with all but exactly `count` weights of largest |w| set to 0.

    Comparing with the k-th magnitude alone keeps too many where magnitudes repeat, as they do on a quantized
    grid: among equals the first in row-major order are kept. Raises SpecError for a count outside the array,
    NonFiniteWeightError for NaN or Inf.
    """
    xp = namespace(weight)
    magnitudes = xp.abs(weight.reshape(-1))
    total = len(magnitudes)
    if not 0 <= count <= total:
        raise SpecError(f"cannot keep {count} of {total} weights")
    if not is_finite(magnitudes):
        raise NonFiniteWeightError("NaN or Inf among the weights to prune")
    if count == 0:
        return xp.zeros_like(weight)
    threshold = sorted_values(magnitudes)[total - count]
    above, equal = magnitudes > threshold, magnitudes == threshold
    places = count - int(above.sum())
    kept = above | (equal & (xp.cumsum(equal, 0) <= places))
    return xp.where(kept.reshape(weight.shape), weight, xp.zeros_like(weight))


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
    if weight.ndim != 2:
        raise FormatError(f"shape {list(weight.shape)} is not a matrix: only matrices are stored sparsely")
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
