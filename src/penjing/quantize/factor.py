"""The Cholesky factor that feeds rounding errors back, and the corrected target that it gives at once."""

from __future__ import annotations

import torch
from torch import Tensor

LEAF_ROWS = 256  # inverted by substitution; larger triangles by products of their halves


def inverse_upper(matrix: Tensor) -> Tensor | None:
    """U, upper triangular with U^T U = M^-1 for a positive definite M [K, K], in its dtype; None if M is not.

    With J the reversal of rows, J M J = L L^T gives M = (J L J)(J L J)^T, so that U = J L^-1 J: one
    factorization and one inverse of a triangle, a quarter of the work of inverting M and factoring again.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(failed):
        return None
    invert_lower(lower)
    return lower.flip(0, 1)


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
