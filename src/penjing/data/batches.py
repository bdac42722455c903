"""Shuffled batches of a packed stream as a function of their number: nothing to save, nothing to share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penjing.data.packing import PackedTokens, block_order
from penjing.errors import DataError


@dataclass
class BlockBatches:
    """Batch `number` is `count` blocks of `length` inputs and their targets, for ever.

    Every epoch is another permutation of all blocks by `seed`; fewer than `count` left over at its end are
    left out of it. Ranks that take batches by disjoint numbers, as the training loop's do, share the data
    without overlap and read only what they take. Raises DataError for a stream shorter than one batch.
    """

    packed: PackedTokens
    length: int
    count: int
    seed: int = 0
    _epoch: int = field(default=-1, init=False)
    _order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), init=False)

    def __post_init__(self) -> None:
        if self.length < 1 or self.count < 1:
            raise DataError(
                f"batches of {self.count} blocks of {self.length} tokens: both must be at least 1"
            )
        self.num_blocks = self.packed.num_blocks(self.length)
        if self.num_blocks < self.count:
            raise DataError(
                f"{self.packed.index.num_tokens} packed tokens make {self.num_blocks} blocks of "
                f"{self.length}, fewer than a batch of {self.count}: give more text, or shorter blocks"
            )

    def __call__(self, number: int) -> NDArray[np.int64]:
        """Token ids [count, length + 1] int64 of a batch."""
        epoch, place = divmod(number, self.num_blocks // self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, block_order(self.num_blocks, self.seed, epoch)
        chosen = self._order[place * self.count : (place + 1) * self.count]
        return self.packed.blocks(chosen, self.length)
