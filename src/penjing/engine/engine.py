"""The engine: submit sequences, step, receive events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.config import ModelConfig
from penjing.engine.outputs import Completion, EngineStats, Event
from penjing.engine.sampling import Sampling
from penjing.engine.step import Runner
from penjing.spec import Tier

if TYPE_CHECKING:
    from penjing.artifact import Artifact
    from penjing.text import Tokenizer


class Engine:
    """Continuous batching over one artifact.

    Single-threaded by design: one thread calls every method. A service gives the engine a thread of its own
    and talks to it through queues.
    """

    artifact: Artifact
    config: ModelConfig

    def __init__(
        self,
        source: str | Path | Artifact,
        *,
        tier: Tier | None = None,
        threads: int | None = None,
        isa: str | None = None,
        num_pages: int | None = None,
        max_step_tokens: int = 512,
        max_sequences: int = 64,
        max_queue: int = 1024,
        prefix_cache: bool = True,
        runner: Runner | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer. Raises TokenizerError if the artifact has none."""
        raise NotImplementedError

    def submit(self, tokens: Sequence[int], sampling: Sampling, tier: Tier | None = None) -> int:
        """Queue one sequence; its id (ascending, never reused).

        Raises InputError (no tokens, an unknown id), PromptTooLongError, CapacityError (queue full, or more
        pages than there are), SpecError (a tier that the artifact lacks).
        """
        raise NotImplementedError

    def submit_group(
        self, tokens: Sequence[int], samplings: Sequence[Sampling], tier: Tier | None = None
    ) -> list[int]:
        """Queue several answers to one prompt, which is computed once; an id for each, in order.

        Answers differ only if their samplings do: `[replace(s, seed=s.seed + i) for i in range(n)]`.
        """
        raise NotImplementedError

    def step(self) -> list[Event]:
        """Schedule, run, postprocess: at most one new token for each running sequence."""
        raise NotImplementedError

    def cancel(self, sequence_id: int) -> Event | None:
        """End a sequence now and free its pages; its last event, or None if it is unknown or has ended."""
        raise NotImplementedError

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        raise NotImplementedError

    def generate(self, prompt: str | Sequence[int], sampling: Sampling = Sampling()) -> Completion:
        """Run one prompt to its end. Text is encoded with the tokenizer's special tokens."""
        raise NotImplementedError

    def stream(self, prompt: str | Sequence[int], sampling: Sampling = Sampling()) -> Iterator[Event]:
        """The events of one prompt, as they come. Closing the iterator cancels the sequence."""
        raise NotImplementedError

    def score(
        self, sequences: Sequence[Sequence[int]], tier: Tier | None = None
    ) -> list[NDArray[np.float32]]:
        """For each list of n tokens, float32 [n - 1]: natural log of p(tokens[i + 1] | tokens[: i + 1])."""
        raise NotImplementedError

    def logits(
        self, tokens: Sequence[int], tier: Tier | None = None, rows_per_step: int = 256
    ) -> Iterator[NDArray[np.float32]]:
        """Every token's logits, in order, as arrays float32 [at most rows_per_step, vocab_size]."""
        raise NotImplementedError

    def stats(self) -> EngineStats:
        """A snapshot of counters and gauges."""
        raise NotImplementedError

    @property
    def free_pages(self) -> int:
        """Pages that no sequence references (cached ones included: they can be evicted)."""
        raise NotImplementedError

    def check_invariants(self) -> None:
        """AssertionError unless every page is free, cached, or referenced exactly as often as counted."""
        raise NotImplementedError
