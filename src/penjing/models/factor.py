"""The factor of an inverse Gram matrix, by which rounding errors are fed back to later columns."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.errors import DataError
from penjing.models.statistics import InputStatistics, damped

MOST_DAMPING = 1e3
LEAF_ROWS = 256  # inverted by substitution; larger triangles by products of their halves


def feedback_factor(
    statistics: InputStatistics, damping: float, *, by_importance: bool = True
) -> tuple[Tensor, Tensor]:
    """An order of columns, and U, upper triangular float32 with U^T U = (G + damping mean diag(G))^-1 in it.

    by_importance: columns of large inputs first, else their natural order. In double precision; damping grows
    tenfold as long as rounding leaves the matrix indefinite. Raises DataError if that does not help.
    """
    key = (damping, by_importance)
    if key not in statistics.factors:
        diagonal = statistics.gram.diagonal()
        order = torch.argsort(diagonal, descending=True, stable=True)
        if not by_importance:
            order = torch.arange(len(diagonal))
        statistics.factors[key] = order, factor_in_order(statistics.gram, order, damping)
    return statistics.factors[key]


def factor_in_order(gram: Tensor, order: Tensor, damping: float) -> Tensor:
    """U of the damped Gram with rows and columns in this order."""
    backwards = order.flip(0)
    while damping <= MOST_DAMPING:
        factor = inverse_upper(damped(gram[backwards][:, backwards], damping))
        if factor is not None:
            return factor
        damping = max(10 * damping, 1e-6)
    raise DataError("the Gram matrix of a layer's inputs is not positive semidefinite: it was damaged")


def inverse_upper(backwards: Tensor) -> Tensor | None:
    """U, upper triangular float32 with U^T U = M^-1 for a positive definite M [K, K] that is given with rows
    and columns backwards, J M J; None if it is not positive definite.

    J M J = L L^T gives M = (J L J)(J L J)^T, so that U = J L^-1 J: one factorization and one inverse of a
    triangle, where inverting M and factoring again is twice that. `backwards` is used up: a copy in double
    precision is the most that a wide matrix's inputs take.
    """
    lower = backwards.mT  # itself, being symmetric, in the order in which LAPACK works in place
    _, failed = torch.linalg.cholesky_ex(lower, out=(lower, torch.empty(0, dtype=torch.int32)))
    if int(failed):
        return None
    invert_lower(lower)
    rows = len(lower)
    upper = torch.empty(rows, rows)
    for first in range(0, rows, LEAF_ROWS):
        last = min(first + LEAF_ROWS, rows)
        upper[first:last] = lower[rows - last : rows - first].flip(0, 1)
    return upper


def invert_lower(lower: Tensor) -> None:
    """Replace a lower triangular matrix by its inverse: [[A, 0], [B, C]] by [[A', 0], [-C' B A', C']]."""
    rows = len(lower)
    if rows <= LEAF_ROWS:
        identity = torch.eye(rows, dtype=lower.dtype)
        lower.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
        return
    half = rows // 2
    first, below, second = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    invert_lower(first)
    invert_lower(second)
    below.copy_(-(second @ below) @ first)
