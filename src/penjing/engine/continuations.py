"""How likely texts go on as given. What several share at their beginning is computed once.

Logits are computed of the continuations alone, and full pages of contexts are offered to the prefix cache:
the choices of one question, or questions after the same examples, cost little more than what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.engine.pages import PagePool, page_hash, pages_for
from penjing.engine.sampling import Sampler
from penjing.engine.scoring import Piece, check_finite
from penjing.engine.step import PAGE_TOKENS, Runner, StepSequence
from penjing.errors import CapacityError
from penjing.spec import Tier

STEPS_PER_WAVE = 8  # about as many steps of contexts are run before their continuations
Pair = tuple[Sequence[int], Sequence[int]]  # (context, continuation), both not empty


@dataclass(frozen=True)
class Continuation:
    """A continuation's log-probability after its context (natural log, the sum over its tokens), and whether
    each of its tokens is the likeliest in its place; the lowest id is, of equals."""

    log_probability: float
    is_greedy: bool


@dataclass(frozen=True)
class Branch:
    """Tokens to run from a position on, over these pages, and how many of the last rows are wanted."""

    tokens: NDArray[np.int32]
    first_position: int
    pages: NDArray[np.int32]
    num_wanted: int

    def wanted_before(self, stop: int) -> int:
        """Wanted rows among tokens 0 .. stop - 1."""
        return max(0, stop - (len(self.tokens) - self.num_wanted))

    def as_step(self, piece: Piece, tier: Tier) -> StepSequence:
        """One piece of it."""
        first_wanted = max(piece.start, len(self.tokens) - self.num_wanted)
        last_position = self.first_position + piece.stop
        return StepSequence(
            tokens=self.tokens[piece.start : piece.stop],
            first_position=self.first_position + piece.start,
            pages=self.pages[: pages_for(last_position)],
            wanted=np.arange(first_wanted - piece.start, piece.stop - piece.start, dtype=np.int32),
            tier=tier,
        )


class ContinuationScorer:
    """Scores pairs in waves: first the full pages of a wave's contexts, then what follows them.

    No page is held between calls. max_tokens, max_rows: of a step, and of the logits that it computes.
    """

    def __init__(
        self, runner: Runner, pool: PagePool, sampler: Sampler, *, max_tokens: int, max_rows: int
    ) -> None:
        self._runner = runner
        self._pool = pool
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._max_rows = max_rows

    def score(self, pairs: Sequence[Pair], tier: Tier, root: bytes) -> list[Continuation]:
        """A result for each pair, in order; `root` is the parent hash of every first page.

        Raises CapacityError if a pair needs more pages than are available, and NonFiniteLogitsError.
        """
        results = []
        for wave in cut_waves(pairs, self._pool.num_available, STEPS_PER_WAVE * self._max_tokens):
            held: list[int] = []
            try:
                prefixes = self._run_contexts(wave, tier, root, held)
                branches, served = self._branch_off(wave, prefixes, held)
                results += self._run_branches(wave, branches, served, tier)
            finally:
                for page in reversed(held):
                    self._pool.release([page])
        return results

    def _run_contexts(
        self, wave: Sequence[Pair], tier: Tier, root: bytes, held: list[int]
    ) -> dict[bytes, list[int]]:
        """The pages of each context that its continuations share, by the context's tokens."""
        contexts = {as_key(context): context for context, _ in wave}
        prefixes: dict[bytes, list[int]] = {}
        branches, fresh = [], []
        for key, context in contexts.items():
            hashes = shared_hashes(context, root)
            found = self._find(hashes)
            pages = [*found, *(self._pool.take() for _ in hashes[len(found) :])]
            held += pages
            prefixes[key] = pages
            if len(found) < len(pages):
                first, last = len(found) * PAGE_TOKENS, len(pages) * PAGE_TOKENS
                tokens = np.asarray(context[first:last], np.int32)
                branches.append(Branch(tokens, first, np.asarray(pages, np.int32), 0))
                fresh.append((pages, hashes, len(found)))
        for _ in self._steps(branches, tier):
            pass
        for pages, hashes, num_found in fresh:
            for place in range(num_found, len(pages)):
                offered = self._pool.publish(pages[place], hashes[place])
                held[held.index(pages[place])] = offered
                pages[place] = offered
        return prefixes

    def _find(self, hashes: Sequence[bytes]) -> list[int]:
        """The pages that the prefix cache has from the first on, each referenced once more."""
        pages = []
        for key in hashes:
            page = self._pool.find(key)
            if page is None:
                break
            self._pool.share(page)
            pages.append(page)
        return pages

    def _branch_off(
        self, wave: Sequence[Pair], prefixes: dict[bytes, list[int]], held: list[int]
    ) -> tuple[list[Branch], list[list[int]]]:
        """What is run after the shared pages, and whose pairs it serves: those that differ in their last
        token alone are one branch."""
        branches: list[Branch] = []
        served: dict[tuple[bytes, bytes], list[int]] = {}
        for index, (context, continuation) in enumerate(wave):
            key = as_key(context), as_key(continuation[:-1])
            if key in served:
                served[key].append(index)
                continue
            served[key] = [index]
            tokens, shared = [*context, *continuation[:-1]], prefixes[key[0]]
            own = [self._pool.take() for _ in range(pages_for(len(tokens)) - len(shared))]
            held += own
            first = len(shared) * PAGE_TOKENS
            pages = np.asarray([*shared, *own], np.int32)
            branches.append(Branch(np.asarray(tokens[first:], np.int32), first, pages, len(continuation)))
        return branches, list(served.values())

    def _run_branches(
        self, wave: Sequence[Pair], branches: Sequence[Branch], served: Sequence[list[int]], tier: Tier
    ) -> list[Continuation]:
        """A result for each pair of the wave."""
        values = [np.empty(len(continuation)) for _, continuation in wave]
        greedy = [True] * len(wave)
        for pieces, logits in self._steps(branches, tier):
            normalizers = self._sampler.log_normalizers(logits)
            likeliest, row = logits.argmax(axis=1), 0
            for piece in pieces:
                branch = branches[piece.index]
                start, stop = branch.wanted_before(piece.start), branch.wanted_before(piece.stop)
                rows = np.arange(row, row + stop - start)
                for index in served[piece.index]:
                    tokens = np.asarray(wave[index][1][start:stop], np.int64)
                    values[index][start:stop] = logits[rows, tokens] - normalizers[rows]
                    greedy[index] &= bool((likeliest[rows] == tokens).all())
                row += len(rows)
        # Summed at the end, so that no sum depends on how steps were cut.
        return [Continuation(float(value.sum()), flag) for value, flag in zip(values, greedy, strict=True)]

    def _steps(
        self, branches: Sequence[Branch], tier: Tier
    ) -> Iterator[tuple[list[Piece], NDArray[np.float32]]]:
        """Each step's pieces, and the logits of their wanted rows in that order."""
        for pieces in cut_branches(branches, self._max_tokens, self._max_rows):
            logits = self._runner.step([branches[piece.index].as_step(piece, tier) for piece in pieces])
            if len(logits):
                check_finite(logits)
            yield pieces, logits


def cut_waves(pairs: Sequence[Pair], max_pages: int, max_tokens: int) -> Iterator[list[Pair]]:
    """Pairs that fit so many pages together, and end about there in tokens. Raises CapacityError."""
    wave: list[Pair] = []
    contexts: set[bytes] = set()
    pages = tokens = 0
    for context, continuation in pairs:
        length, shared = len(context) + len(continuation) - 1, num_shared_pages(context)
        if pages_for(length) > max_pages:
            raise CapacityError(
                f"scoring needs {pages_for(length)} KV pages and {max_pages} are available: "
                "finish or cancel running sequences, or give the engine more pages (num_pages)"
            )
        is_new = as_key(context) not in contexts
        added = pages_for(length) - (0 if is_new else shared)
        if wave and (pages + added > max_pages or tokens >= max_tokens):
            yield wave
            wave, contexts, pages, tokens, is_new = [], set(), 0, 0, True
            added = pages_for(length)
        wave.append((context, continuation))
        contexts.add(as_key(context))
        pages += added
        tokens += length - (0 if is_new else shared * PAGE_TOKENS)
    if wave:
        yield wave


def cut_branches(branches: Sequence[Branch], max_tokens: int, max_rows: int) -> Iterator[list[Piece]]:
    """Cut branches into steps of at most so many tokens and wanted rows."""
    pieces: list[Piece] = []
    tokens_left, rows_left = max_tokens, max_rows
    for index, branch in enumerate(branches):
        start, length = 0, len(branch.tokens)
        while start < length:
            unwanted = max(0, length - branch.num_wanted - start)
            if tokens_left == 0 or rows_left == 0:
                yield pieces
                pieces, tokens_left, rows_left = [], max_tokens, max_rows
            stop = min(length, start + min(tokens_left, unwanted + rows_left))
            pieces.append(Piece(index, start, stop))
            tokens_left -= stop - start
            rows_left -= branch.wanted_before(stop) - branch.wanted_before(start)
            start = stop
    if pieces:
        yield pieces


def num_shared_pages(context: Sequence[int]) -> int:
    """Full pages before the context's last token, which is run again for the logits after it."""
    return (len(context) - 1) // PAGE_TOKENS


def shared_hashes(context: Sequence[int], root: bytes) -> list[bytes]:
    """The chained hash of each of those pages."""
    hashes = []
    for place in range(num_shared_pages(context)):
        root = page_hash(root, context[place * PAGE_TOKENS : (place + 1) * PAGE_TOKENS])
        hashes.append(root)
    return hashes


def as_key(tokens: Sequence[int]) -> bytes:
    """Equal for equal tokens."""
    return np.asarray(tokens, np.int32).tobytes()
