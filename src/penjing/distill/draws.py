"""Tokens drawn from a teacher's distribution, and their packing: a few bytes a position in place of a row of
logits (Random Sampling Knowledge Distillation, Anshumann et al. 2025).

The counts of n tokens drawn with replacement at temperature 1, divided by n, are an unbiased estimate of the
distribution; the n largest probabilities are not, whatever their number.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS_AT_ONCE = 64  # positions whose cumulated float64 distributions are in memory together
MOST_DRAWS = 255  # a count is a byte
# A quantile this close to 1 could fall, after rounding, behind the last token.
LAST_QUANTILE = 1 - 2.0**-50


@dataclass(frozen=True, eq=False)
class Draws:
    """Drawn tokens of consecutive positions: how many distinct ones each has, uint8 [positions], then their
    ids, int64 [total], ascending within a position, and how often each was drawn, uint8 [total].
    """

    distinct: NDArray[np.uint8]
    ids: NDArray[np.int64]
    counts: NDArray[np.uint8]

    def padded(self, slots: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and counts, [positions, slots] each; slots not in use have id 0 and count 0."""
        positions = len(self.distinct)
        ids = np.zeros((positions, slots), np.int64)
        counts = np.zeros((positions, slots), np.float32)
        rows = np.repeat(np.arange(positions), self.distinct)
        starts = np.cumsum(self.distinct, dtype=np.int64) - self.distinct
        columns = np.arange(len(self.ids)) - np.repeat(starts, self.distinct)
        ids[rows, columns], counts[rows, columns] = self.ids, self.counts
        return ids, counts


def draw(logits: Tensor, num_draws: int, generator: np.random.Generator) -> Draws:
    """Draw `num_draws` tokens a position from softmax(logits [positions, vocabulary]), which are finite.

    One is drawn from each of `num_draws` equal slices of the cumulated distribution: counts have the mean of
    independent draws and never more variance.
    """
    chosen = []
    for rows in torch.split(logits, ROWS_AT_ONCE):
        cumulated = rows.double().softmax(-1).cumsum(-1)
        within = torch.from_numpy(generator.random((len(rows), num_draws)))
        quantiles = ((torch.arange(num_draws) + within) / num_draws).clamp(max=LAST_QUANTILE)
        chosen.append(torch.searchsorted(cumulated, quantiles * cumulated[:, -1:], right=True))
    ids = torch.cat(chosen).numpy()  # ascending, as quantiles are
    is_first = np.ones(ids.shape, np.bool_)
    is_first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(is_first)
    counts = np.diff(starts, append=ids.size)  # every position begins anew, so no run crosses over
    return Draws(is_first.sum(1).astype(np.uint8), ids[is_first], counts.astype(np.uint8))


def pack(draws: Draws, vocabulary_size: int) -> bytes:
    """Compressed by zlib: `distinct`, `counts`, then the ids' lowest bytes, their next bytes, and so on."""
    planes = [(draws.ids >> (8 * place)).astype(np.uint8) for place in range(id_bytes(vocabulary_size))]
    return zlib.compress(b"".join(part.tobytes() for part in (draws.distinct, draws.counts, *planes)))


def unpack(packed: bytes, positions: int, num_draws: int, vocabulary_size: int) -> Draws:
    """What `pack` packed. Raises ValueError for bytes that are not draws of such a shape."""
    places = id_bytes(vocabulary_size)
    most = positions * (1 + num_draws * (1 + places))
    try:
        plain = zlib.decompressobj().decompress(packed, most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    whole = np.frombuffer(plain, np.uint8)
    distinct, rest = whole[:positions], whole[positions:]
    total = int(distinct.sum(dtype=np.int64))
    if len(distinct) != positions or not distinct.all() or len(rest) != total * (1 + places):
        raise ValueError("the parts have other sizes than they say")
    counts, *planes = rest.reshape(1 + places, total)
    ids = sum(plane.astype(np.int64) << (8 * place) for place, plane in enumerate(planes))
    assert isinstance(ids, np.ndarray)
    sums = np.add.reduceat(counts, np.cumsum(distinct, dtype=np.int64) - distinct, dtype=np.int64)
    if (sums != num_draws).any() or ids.max() >= vocabulary_size:
        raise ValueError("counts or token ids are out of range")
    return Draws(distinct, ids, counts)


def id_bytes(vocabulary_size: int) -> int:
    """Bytes that hold any token id."""
    return max(1, -(-(vocabulary_size - 1).bit_length() // 8))
