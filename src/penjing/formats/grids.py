"""Grids: which values the codes of a format stand for, in steps of a group's scale.

A weight is s (level(u) - zero): u is the stored code, unsigned; s the scale of its group; `zero` is there
only where a grid is asymmetric, and is a whole number of steps. Functions take `values`, `scales` and `zeros`
that broadcast against each other, and give numpy and torch the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from penjing.formats.namespace import Array, namespace

# Quantiles of a normal distribution and an exact zero (Dettmers et al. 2023, QLoRA, appendix E).
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# OCP Microscaling Formats (MX) 1.0: sign, 2 bits of exponent, 1 of mantissa.
E2M1_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def e4m3_levels() -> tuple[float, ...]:
    """OCP 8-bit floating point, E4M3, without infinities; the NaN codes 127 and 255 are +-448 here."""
    positive = [
        (mantissa / 8 * 2.0**-6) if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        for exponent in range(16)
        for mantissa in range(8)
    ]
    positive[127] = positive[126]
    return (*positive, *(-level for level in positive))


@dataclass(frozen=True)
class Grid:
    """The levels of codes 0 .. len(levels) - 1, in steps of the scale.

    uniform: levels are consecutive whole numbers, so that rounding finds the code; any other grid searches.
    """

    levels: tuple[float, ...]
    uniform: bool

    @property
    def bits(self) -> int:
        """Of a code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def lowest(self) -> float:
        """The least level."""
        return min(self.levels)

    @property
    def highest(self) -> float:
        """The greatest level."""
        return max(self.levels)

    @property
    def widest_gap(self) -> float:
        """The greatest distance between neighbouring levels."""
        return max(b - a for a, b in pairwise(sorted(self.levels)))

    def nearest(self, values: Array, scales: Array, zeros: Array | None = None) -> Array:
        """Codes (float32 whole numbers) of the nearest levels, ties to even codes on a uniform grid.

        Where the scale is 0 the code is the one of level 0 (of `zeros`, on an asymmetric grid).
        """
        xp = namespace(values)
        steps = values / xp.where(scales == 0, 1.0, scales)
        steps = xp.where(scales == 0, 0.0, steps)
        if zeros is not None:
            steps = steps + zeros
        if self.uniform:
            return xp.clip(xp.round(steps), self.lowest, self.highest) - self.lowest
        order = sorted(range(len(self.levels)), key=lambda code: (self.levels[code], code))
        kept = [order[0]] + [b for a, b in pairwise(order) if self.levels[a] != self.levels[b]]
        middles = [(self.levels[a] + self.levels[b]) / 2 for a, b in pairwise(kept)]
        places = xp.searchsorted(xp.asarray(middles, dtype=xp.float32), steps)
        return xp.asarray(kept, dtype=xp.float32)[places]

    def values(self, codes: Array, scales: Array, zeros: Array | None = None) -> Array:
        """What codes stand for, float32."""
        xp = namespace(scales)
        if self.uniform:
            levels = xp.asarray(codes, dtype=xp.float32) + self.lowest
        else:
            table = xp.asarray(self.levels, dtype=xp.float32)
            levels = table[xp.asarray(codes, dtype=xp.int64)]
        return (levels if zeros is None else levels - zeros) * scales


def uniform_grid(bits: int, asymmetric: bool) -> Grid:
    """Whole numbers: -2^(bits-1) .. 2^(bits-1) - 1, or 0 .. 2^bits - 1 where there is a zero point."""
    first = 0 if asymmetric else -(2 ** (bits - 1))
    return Grid(tuple(float(first + code) for code in range(2**bits)), uniform=True)


def table_grid(entries: Sequence[int]) -> Grid:
    """Whole numbers in [-127, 127], a matrix's own."""
    return Grid(tuple(float(entry) for entry in entries), uniform=False)


FIXED_GRIDS = {
    "nf4": Grid(NF4_LEVELS, uniform=False),
    "mxfp4": Grid(E2M1_LEVELS, uniform=False),
    "fp8": Grid(e4m3_levels(), uniform=False),
}
