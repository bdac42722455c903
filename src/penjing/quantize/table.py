"""The table of a `table2` to `table4` matrix, fitted to its own weights as they count (weighted k-means)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.formats.table_fit import LARGEST_LEVEL, cluster, to_table
from penjing.quantize.matrix import to_groups

CHUNK_ROWS = 256  # counted at a time: bounds memory
FARTHEST = 2 * LARGEST_LEVEL  # bins of weights that lie beyond the table, and are clipped to its ends


def fit_table(
    weight: Tensor, importance: Tensor, group_size: int, bits: int, scales: Tensor | None = None
) -> NDArray[np.int8]:
    """int8 [16]: 2^bits ascending levels, the largest magnitude being 127, of least weighted squared error.

    importance: of every input, float32 [K], or of every weight [N, K]. scales: float32 [N, groups], in whose
    steps weights are seen; by default those that bring each group's largest magnitude to -127.
    """
    groups, weights_of = to_groups(weight, group_size), to_groups(importance, group_size)
    placed = signed_ranges(groups) if scales is None else scales
    found = np.zeros((2, 2 * FARTHEST + 1))
    for first in range(0, len(groups), CHUNK_ROWS):
        rows = slice(first, first + CHUNK_ROWS)
        counts = weights_of if weights_of.ndim == 2 else weights_of[rows]
        found += count(groups[rows], counts, placed[rows])
    levels = cluster(found[0], 2**bits, found[1])
    largest = max(float(np.abs(levels).max()), 1.0)
    return to_table(levels * (LARGEST_LEVEL / largest))


def count(groups: Tensor, importance: Tensor, scales: Tensor) -> NDArray[np.float64]:
    """Weights [n, groups, G] in bins of a step each: their importance times the square of their step, and
    that times where they lie, float64 [2, bins].
    """
    places = scales[..., None]
    steps = torch.where(places == 0, 0.0, groups / torch.where(places == 0, 1.0, places))
    steps = steps.clamp(-FARTHEST, FARTHEST)
    bins = (steps.round().long() + FARTHEST).flatten().numpy()
    masses = (importance * places * places).double().expand(steps.shape)
    weighed = (masses.flatten().numpy(), (masses * steps).flatten().numpy())
    return np.stack([np.bincount(bins, each, minlength=2 * FARTHEST + 1) for each in weighed])


def signed_ranges(groups: Tensor) -> Tensor:
    """Scales [N, groups] that bring the weight of largest magnitude of each group to -127."""
    highest, lowest = groups.amax(-1), groups.amin(-1)
    return torch.where(highest > -lowest, highest, lowest) / -LARGEST_LEVEL
