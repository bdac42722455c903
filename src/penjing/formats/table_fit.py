"""The table of `table4`: the sixteen levels that suit a matrix best, by exact one-dimensional k-means.

Weights are normalized by their group first, the one of largest magnitude to -127, and counted in 255 bins
with the square of their scale, so that what is minimized is the squared error of the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from penjing.formats.tiles import TILE_ROWS

LEVELS = 16
LARGEST_LEVEL = 127
BINS = 2 * LARGEST_LEVEL + 1  # whole numbers from -127 to 127

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def fit_table(chunks: Iterable[Floats], group_size: int) -> NDArray[np.int8]:
    """Ascending levels int8 [16] for a matrix whose rows [N, K] come in chunks of whole tiles.

    The result does not depend on how rows are cut into chunks.
    """
    histogram = np.zeros(BINS)
    for rows in chunks:
        for tile in tile_histograms(rows, group_size):  # one after another: sums have one order
            histogram += tile
    return cluster(histogram)


def tile_histograms(rows: Floats, group_size: int) -> Doubles:
    """Weights of the bins [tiles, 255], for each tile of 16 rows."""
    groups = np.pad(rows, ((0, 0), (0, -rows.shape[1] % group_size))).reshape(len(rows), -1, group_size)
    highest, lowest = groups.max(axis=2, keepdims=True), groups.min(axis=2, keepdims=True)
    scales = np.where(highest > -lowest, highest, lowest) / np.float32(-LARGEST_LEVEL)
    bins = np.rint(groups / np.where(scales == 0, 1, scales)).astype(np.int64) + LARGEST_LEVEL
    tile = np.arange(len(rows))[:, None, None] // TILE_ROWS
    weights = np.broadcast_to(np.square(scales, dtype=np.float64), groups.shape)
    counts = np.bincount(
        (np.clip(bins, 0, BINS - 1) + BINS * tile).reshape(-1),
        weights.reshape(-1),
        minlength=BINS * (int(tile[-1, 0, 0]) + 1),
    )
    return counts.reshape(-1, BINS).astype(np.float64)


def cluster(histogram: Doubles) -> NDArray[np.int8]:
    """The 16 means of least squared error for weighted bins, rounded (dynamic programming over the cuts)."""
    places = np.arange(BINS) - float(LARGEST_LEVEL)
    masses = np.concatenate([[0.0], np.cumsum(histogram)])
    firsts = np.concatenate([[0.0], np.cumsum(histogram * places)])
    seconds = np.concatenate([[0.0], np.cumsum(histogram * places**2)])
    least = np.concatenate([[0.0], np.full(BINS, np.inf)])  # error of the first j bins, in so many clusters
    cuts = np.zeros((LEVELS, BINS + 1), np.int64)
    begins = np.arange(BINS + 1)
    for level in range(LEVELS):
        previous, least = least, np.full(BINS + 1, np.inf)
        for end in range(level + 1, BINS + 1):
            begin = begins[level:end]
            mass = masses[end] - masses[begin]
            first = firsts[end] - firsts[begin]
            error = seconds[end] - seconds[begin] - first**2 / np.where(mass > 0, mass, 1)
            total = previous[begin] + error
            best = int(np.argmin(total))
            least[end], cuts[level, end] = total[best], begin[best]
    levels: list[int] = []
    last = BINS
    for level in reversed(range(LEVELS)):
        first_bin = int(cuts[level, last])
        mass = masses[last] - masses[first_bin]
        mean = (firsts[last] - firsts[first_bin]) / mass if mass > 0 else places[first_bin:last].mean()
        levels.append(round(float(mean)))
        last = first_bin
    return np.array(levels[::-1], np.int8)
