"""Log-probabilities and logits of given tokens, through the same steps that serve.

Several short token lists share a step; a long one takes several. Neither changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.engine.pages import PagePool, pages_for
from penjing.engine.sampling import Sampler
from penjing.engine.step import Runner, StepSequence
from penjing.errors import CapacityError, NonFiniteLogitsError
from penjing.spec import Tier

LOGITS_BYTES_PER_STEP = 64 << 20  # a step of `score` has no more rows of logits than fit
MIN_ROWS_PER_STEP = 16
NON_FINITE = "the model produced NaN or Inf: check the artifact with `penjing verify`"


@dataclass(frozen=True)
class Piece:
    """Tokens start .. stop - 1 of the list with this index."""

    index: int
    start: int
    stop: int


class Scorer:
    """Runs token lists whose logits are all wanted. Pages are held from a list's first piece to its last."""

    def __init__(
        self, runner: Runner, pool: PagePool, sampler: Sampler, vocab_size: int, max_step_tokens: int
    ) -> None:
        self._runner = runner
        self._pool = pool
        self._sampler = sampler
        affordable = LOGITS_BYTES_PER_STEP // (4 * vocab_size)
        self.max_rows = min(max_step_tokens, max(MIN_ROWS_PER_STEP, affordable))
        self.held_pages: list[int] = []

    def score(self, lists: Sequence[Sequence[int]], tier: Tier) -> list[NDArray[np.float32]]:
        """For each list of n tokens, float32 [n - 1]: the log-probability of each token after the first."""
        scores = [np.empty(len(tokens) - 1, np.float32) for tokens in lists]
        for pieces, logits in self.walk([tokens[:-1] for tokens in lists], tier, self.max_rows):
            targets = [
                token for piece in pieces for token in lists[piece.index][piece.start + 1 : piece.stop + 1]
            ]
            values = logits[np.arange(len(targets)), targets] - self._sampler.log_normalizers(logits)
            row = 0
            for piece in pieces:
                stop = row + piece.stop - piece.start
                scores[piece.index][piece.start : piece.stop] = values[row:stop]
                row = stop
        return scores

    def logits(self, tokens: Sequence[int], tier: Tier, rows_per_step: int) -> Iterator[NDArray[np.float32]]:
        """The logits of every token of one list, as the steps compute them."""
        for _, logits in self.walk([tokens], tier, rows_per_step):
            yield logits

    def walk(
        self, lists: Sequence[Sequence[int]], tier: Tier, max_rows: int
    ) -> Iterator[tuple[list[Piece], NDArray[np.float32]]]:
        """Each step's pieces, and their logits [rows, vocab_size] in that order.

        Raises CapacityError if a list needs more pages than are available, and NonFiniteLogitsError.
        """
        num_available = self._pool.num_available
        longest = max((pages_for(len(tokens)) for tokens in lists), default=0)
        if longest > num_available:
            raise CapacityError(
                f"scoring needs {longest} KV pages and {num_available} are available: "
                "finish or cancel running sequences, or give the engine more pages (num_pages)"
            )
        pages: dict[int, list[int]] = {}
        try:
            for pieces in pack([len(tokens) for tokens in lists], max_rows, num_available):
                for piece in pieces:
                    if piece.start == 0:
                        pages[piece.index] = self._take(len(lists[piece.index]))
                logits = self._runner.step(
                    [step_sequence(lists[piece.index], piece, pages[piece.index], tier) for piece in pieces]
                )
                check_finite(logits)
                for piece in pieces:
                    if piece.stop == len(lists[piece.index]):
                        self._give_back(pages.pop(piece.index))
                yield pieces, logits
        finally:
            for unfinished in pages.values():
                self._give_back(unfinished)

    def _take(self, num_tokens: int) -> list[int]:
        pages = [self._pool.take() for _ in range(pages_for(num_tokens))]
        self.held_pages += pages
        return pages

    def _give_back(self, pages: list[int]) -> None:
        self._pool.release(pages)
        for page in pages:
            self.held_pages.remove(page)


def pack(lengths: Sequence[int], max_tokens: int, max_pages: int) -> Iterator[list[Piece]]:
    """Cut lists into steps of at most max_tokens tokens, whose lists together fit max_pages pages."""
    pieces: list[Piece] = []
    tokens_left, pages_left = max_tokens, max_pages
    for index, length in enumerate(lengths):
        num_pages, start = pages_for(length), 0
        while start < length:
            if tokens_left == 0 or num_pages > pages_left:
                yield pieces
                pieces, tokens_left, pages_left = [], max_tokens, max_pages
            piece = Piece(index, start, min(length, start + tokens_left))
            pieces.append(piece)
            tokens_left -= piece.stop - start
            pages_left -= num_pages
            start = piece.stop
    if pieces:
        yield pieces


def step_sequence(tokens: Sequence[int], piece: Piece, pages: Sequence[int], tier: Tier) -> StepSequence:
    """One piece, all of its logits wanted."""
    return StepSequence(
        tokens=np.asarray(tokens[piece.start : piece.stop], np.int32),
        first_position=piece.start,
        pages=np.asarray(pages[: pages_for(piece.stop)], np.int32),
        wanted=np.arange(piece.stop - piece.start, dtype=np.int32),
        tier=tier,
    )


def check_finite(logits: NDArray[np.float32]) -> None:
    """A row's maximum shows a NaN or +Inf anywhere in it. Raises NonFiniteLogitsError."""
    if not np.isfinite(logits.max(axis=1)).all():
        raise NonFiniteLogitsError(NON_FINITE)
