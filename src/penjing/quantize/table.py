"""The table of a `table4` matrix: sixteen levels fitted to its own weights (Lloyd 1957, weighted)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.quantize.matrix import to_groups

LARGEST_ENTRY = 127
NUM_ENTRIES = 16
BINS = 4096  # of weights in units of their group's largest: Lloyd's iterations then cost nothing
ITERATIONS = 100


def fit_table(weight: Tensor, importance: Tensor, group_size: int) -> NDArray[np.int8]:
    """int8 [16], ascending, that lower the weighted squared error of weights over their group's largest.

    A weight counts with its importance (float32 [K]) and the square of its group's range, since that is what
    an error in units of the range costs.
    """
    groups = to_groups(weight, group_size)
    largest = groups.abs().amax(-1, keepdim=True)
    shares = (groups / largest.where(largest > 0, torch.ones(()))).flatten()
    counts = (to_groups(importance, group_size) * largest * largest).flatten()
    places = ((shares + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    mass = torch.zeros(BINS, dtype=torch.double).index_add_(0, places, counts.double())
    centres = (torch.arange(BINS, dtype=torch.double) + 0.5) * (2 / BINS) - 1
    levels = lloyd(centres, mass)
    return distinct(torch.round(levels * LARGEST_ENTRY)).numpy().astype(np.int8)


def lloyd(centres: Tensor, mass: Tensor) -> Tensor:
    """Sixteen levels, float64 ascending: each the mean of what is nearest to it."""
    levels = torch.linspace(-1, 1, NUM_ENTRIES, dtype=torch.double)
    for _ in range(ITERATIONS):
        nearest = torch.searchsorted((levels[1:] + levels[:-1]) / 2, centres)
        total = torch.zeros_like(levels).index_add_(0, nearest, mass)
        moment = torch.zeros_like(levels).index_add_(0, nearest, mass * centres)
        levels = torch.where(total > 0, moment / total.where(total > 0, torch.ones_like(total)), levels)
    return levels


def distinct(entries: Tensor) -> Tensor:
    """Entries in [-127, 127], ascending; equal neighbours are kept, for codes take the first of them."""
    return entries.clamp(-LARGEST_ENTRY, LARGEST_ENTRY).sort().values
