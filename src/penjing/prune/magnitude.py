"""Unstructured magnitude pruning (Janowsky 1989; Han et al. 2015): keep the k largest |w|, zero the rest."""

from __future__ import annotations

from pydantic import Field

from penjing.errors import NonFiniteWeightError, SpecError
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
