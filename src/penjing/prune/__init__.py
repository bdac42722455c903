"""Pruning: which weights to do without."""

from penjing.prune.magnitude import MagnitudePruning, keep_largest, prune_magnitude
from penjing.prune.storage import Masked, Sparse, to_dense, to_masked, to_sparse, unmask
from penjing.verbs import make_callable

__all__ = [
    "MagnitudePruning",
    "Masked",
    "Sparse",
    "keep_largest",
    "prune_magnitude",
    "to_dense",
    "to_masked",
    "to_sparse",
    "unmask",
]

make_callable(__name__, "penjing.optimize.pruning", "prune")
