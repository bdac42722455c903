"""What a student reads at each step: blocks of a packed text, by number, in an order that needs no state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.data.packing import PackedTokens, block_order
from penjing.errors import EmptyDataError


@dataclass(frozen=True, eq=False)
class Lesson:
    """One batch: int64 [sequences, length + 1], inputs and targets overlapping by all but one token.

    numbers: of the blocks it was read from, int64 [sequences]. mask: bool [sequences, length], the positions
    that count; None for all. is_own: whether the student wrote what counts.
    """

    numbers: NDArray[np.int64]
    tokens: Tensor
    mask: Tensor | None = None
    is_own: bool = False

    @property
    def inputs(self) -> Tensor:
        """int64 [sequences, length]."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        """int64 [sequences, length]: the token after each input."""
        return self.tokens[:, 1:]


@dataclass(frozen=True)
class Lessons:
    """Batch i of a text: `batch_size` blocks of `length` inputs, each once an epoch, shuffled by `seed`.

    Blocks of a last, incomplete batch are left out of an epoch. Raises EmptyDataError for too little text.
    """

    text: PackedTokens
    length: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.text.num_blocks(self.length) < self.batch_size:
            raise EmptyDataError(
                f"the text has {self.text.num_blocks(self.length)} blocks of {self.length} tokens, a batch "
                f"takes {self.batch_size}: give more text"
            )

    def __call__(self, batch: int) -> Lesson:
        """The batch with this number."""
        num_blocks = self.text.num_blocks(self.length)
        epoch, place = divmod(batch, num_blocks // self.batch_size)
        order = epoch_order(num_blocks, self.seed, epoch)
        numbers = order[place * self.batch_size : (place + 1) * self.batch_size]
        return Lesson(numbers, torch.from_numpy(self.text.blocks(numbers, self.length)))


@lru_cache(maxsize=2)
def epoch_order(num_blocks: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """`block_order`, kept for the steps of an epoch."""
    return block_order(num_blocks, seed, epoch)
