"""The step contract: what a scheduler asks of a runner, in integers and arrays only.

A runner owns the KV memory and computes; a scheduler owns the page ids and decides. Neither knows more of
the other than this file, so that a runner for another device can be handed in from above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penjing.spec import Tier

PAGE_TOKENS = 32  # tokens a KV page; divides the attention span of 256 positions


@dataclass(frozen=True)
class StepSequence:
    """One sequence's share of a step.

    tokens: int32 [n], the tokens to run, at positions first_position .. first_position + n - 1. Positions
        that are already cached may be overwritten.
    pages: int32 [p], the ids of the pages that hold positions 0 .. p * PAGE_TOKENS - 1; they must cover the
        last position of this step.
    wanted: int32 [w], ascending indices into `tokens` whose logits are wanted; empty for none, [n - 1] for
        the last.
    adapter: 0 is none.
    allowed: bool [vocab_size] or None; tokens that are not allowed get -inf in the wanted rows.
    """

    tokens: NDArray[np.int32]
    first_position: int
    pages: NDArray[np.int32]
    wanted: NDArray[np.int32]
    tier: Tier = "best"
    adapter: int = 0
    allowed: NDArray[np.bool_] | None = None


class Runner(Protocol):
    """Computes steps over KV pages that it owns."""

    @property
    def capacity(self) -> int:
        """Pages that the runner's memory can prudently hold, beside the weights and what else it must do."""

    @property
    def num_pages(self) -> int:
        """Pages allocated; ids are 0 .. num_pages - 1."""

    def allocate(self, num_pages: int) -> None:
        """Allocate (or re-allocate) the KV memory; everything cached is lost."""

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole pages, (source, target) each, in order."""

    def step(
        self, sequences: Sequence[StepSequence], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Run one step: logits float32 [sum of wanted, vocab_size], in the order of sequences and wanted.

        out: an array of that shape to write to and return; None makes a new one.
        A sequence's logits are a bitwise function of its tokens, artifact, tier, adapter, KV format and
        instruction set: never of what else is in the batch, how it was chunked, or which pages it has.
        """
