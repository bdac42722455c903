"""Tables of `table2` to `table4`: the levels that suit a matrix best, by exact one-dimensional k-means.

Weights are normalized by their group first, the one of largest magnitude to -127, and counted in 255 bins
with the square of their scale, so that what is minimized is the squared error of the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from penjing.formats.codes import TABLE_ENTRIES
from penjing.formats.tiles import TILE_ROWS

LARGEST_LEVEL = 127
BINS = 2 * LARGEST_LEVEL + 1  # whole numbers from -127 to 127

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def fit_table(chunks: Iterable[Floats], group_size: int, bits: int) -> NDArray[np.int8]:
    """2^bits ascending levels, int8 [16], for a matrix whose rows [N, K] come in chunks of whole tiles.

    The result does not depend on how rows are cut into chunks.
    """
    histogram = np.zeros(BINS)
    for rows in chunks:
        for tile in tile_histograms(rows, group_size):  # one after another: sums have one order
            histogram += tile
    return to_table(cluster(histogram, 2**bits))


def to_table(levels: Doubles) -> NDArray[np.int8]:
    """Levels as they are stored: the nearest whole numbers, int8 [16], with zeros after the last."""
    table = np.zeros(TABLE_ENTRIES, np.int8)
    table[: len(levels)] = np.rint(levels)
    return table


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


def cluster(histogram: Doubles, num_levels: int, moments: Doubles | None = None) -> Doubles:
    """Ascending means [num_levels] of least squared error for bins around 0 (dynamic programming over cuts).

    histogram: the weight of every whole number from -n to n, float64 [2 n + 1]. moments: the same times what
    was counted there, where that is not the whole number itself.
    """
    bins = len(histogram)
    places = np.arange(bins) - (bins - 1) / 2
    masses = np.concatenate([[0.0], np.cumsum(histogram)])
    firsts = np.concatenate([[0.0], np.cumsum(histogram * places if moments is None else moments)])
    seconds = np.concatenate([[0.0], np.cumsum(histogram * places**2)])
    least = np.concatenate([[0.0], np.full(bins, np.inf)])  # error of the first j bins, in so many clusters
    cuts = np.zeros((num_levels, bins + 1), np.int64)
    begins = np.arange(bins + 1)
    for level in range(num_levels):
        previous, least = least, np.full(bins + 1, np.inf)
        for end in range(level + 1, bins + 1):
            begin = begins[level:end]
            mass = masses[end] - masses[begin]
            first = firsts[end] - firsts[begin]
            error = seconds[end] - seconds[begin] - first**2 / np.where(mass > 0, mass, 1)
            total = previous[begin] + error
            best = int(np.argmin(total))
            least[end], cuts[level, end] = total[best], begin[best]
    levels: list[float] = []
    last = bins
    for level in reversed(range(num_levels)):
        begin_bin = int(cuts[level, last])
        mass = masses[last] - masses[begin_bin]
        levels.append(
            float((firsts[last] - firsts[begin_bin]) / mass if mass > 0 else places[begin_bin:last].mean())
        )
        last = begin_bin
    return np.array(levels[::-1])
