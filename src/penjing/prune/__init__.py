"""Pruning: which weights to do without."""

from penjing.prune.magnitude import (
    MagnitudePruning,
    Sparse,
    keep_largest,
    prune_magnitude,
    to_dense,
    to_sparse,
)

__all__ = ["MagnitudePruning", "Sparse", "keep_largest", "prune_magnitude", "to_dense", "to_sparse"]
