"""A matrix as whole steps of its scales, which is what other tools' integer formats store as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats import Codes, Encoded
from penjing.formats.codes import UNIFORM_BITS
from penjing.formats.packing import format_of
from penjing.spec import Tier, WeightFormat

PIECE_WEIGHTS = 1 << 22  # weights converted at a time: bounds memory


@dataclass(frozen=True, eq=False)
class Steps:
    """Weights scale x (level - zero).

    levels: int16 [N, K], signed where there are no zeros. scales: float32 [N, groups], as the artifact means
    them. zeros: uint8 [N, groups] or None.
    """

    levels: NDArray[np.int16]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None
    group_size: int

    def by_blocks(self, size: int) -> Steps:
        """The same with a scale for each `size` columns; `size` divides group size and columns."""
        blocks, repeats = self.levels.shape[1] // size, self.group_size // size
        scales = np.repeat(self.scales, repeats, axis=1)[:, :blocks]
        zeros = None if self.zeros is None else np.repeat(self.zeros, repeats, axis=1)[:, :blocks]
        return Steps(self.levels, scales, zeros, size)

    def without_zeros(self) -> Steps:
        """The same weights with the zeros taken off the levels."""
        if self.zeros is None:
            return self
        columns = self.levels.shape[1]
        zeros = np.repeat(self.zeros.astype(np.int16), self.group_size, axis=1)[:, :columns]
        return replace(self, levels=self.levels - zeros, zeros=None)

    def values(self, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 weights [N, K] with other scales, one for each group, and no zeros."""
        columns = self.levels.shape[1]
        spread = np.repeat(scales, self.group_size, axis=1)[:, :columns]
        return self.levels.astype(np.float32) * spread


def pieces(codes: Codes) -> Iterator[Codes]:
    """The same matrix in runs of rows."""
    rows, columns = codes.codes.shape
    step = max(1, PIECE_WEIGHTS // columns)
    for first in range(0, rows, step):
        run = slice(first, first + step)
        yield replace(
            codes,
            codes=codes.codes[run],
            scales=codes.scales[run],
            zeros=None if codes.zeros is None else codes.zeros[run],
            residual=None if codes.residual is None else codes.residual[run],
        )


def steps_of(codes: Codes, tier: Tier) -> Steps:
    """A matrix in whole steps. Raises FormatError for a format whose levels are not whole numbers."""
    scales, size = codes.scales.astype(np.float32), codes.format.group_size
    if codes.residual is not None and tier == "best":
        fine = 8 * codes.codes.astype(np.int16) + codes.residual - 72
        return Steps(fine.astype(np.int16), scales / np.float32(8), None, size)
    if codes.table is not None:
        return Steps(codes.table.astype(np.int16)[codes.codes], scales, None, size)
    if codes.format.name not in UNIFORM_BITS:
        raise FormatError(f"the levels of {codes.format.name} are no whole numbers of steps")
    levels = codes.codes.astype(np.int16)
    if codes.zeros is None:
        levels -= 2 ** (UNIFORM_BITS[codes.format.name] - 1)
    return Steps(levels, scales, codes.zeros, size)


def format_text(format: WeightFormat, tier: Tier) -> str:
    """A format in words: `int4 g64 asymmetric`, `layered g64 at best`."""
    words = [format.name, f"g{format.group_size}"]
    words += ["asymmetric"] if format.asymmetric else []
    return " ".join(words + ([f"at {tier}"] if format.name == "layered" else []))


def tensor_text(encoded: Encoded, tier: Tier) -> str:
    """The format of any stored matrix in words."""
    return encoded.format if encoded.scales is None else format_text(format_of(encoded), tier)
