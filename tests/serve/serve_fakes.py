"""A runner whose speed and failures a test decides, and engines over it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penjing.artifact import BlockConfig, ModelConfig
from penjing.engine import Engine
from penjing.engine.step import PAGE_TOKENS, StepSequence
from penjing.text import Tokenizer


@dataclass
class FakeArtifact:
    """What engine and service read of an artifact: a real tokenizer, and no weights."""

    path: Path
    config: ModelConfig
    hash: str = "0123456789abcdef" * 4
    tiers: tuple[str, ...] = ("best",)


class FakeRunner:
    """Logits are a hash of the tokens that the pages hold, so that wrong pages give wrong answers.

    step_seconds: how long a step takes. failure: raised by the next step.
    """

    def __init__(self, vocab_size: int, step_seconds: float = 0.0) -> None:
        self.vocab_size = vocab_size
        self.step_seconds = step_seconds
        self.failure: Exception | None = None
        self.poisoned = False
        self.memory = np.empty((0, PAGE_TOKENS), np.int64)

    @property
    def capacity(self) -> int:
        return 1 << 12

    @property
    def num_pages(self) -> int:
        return len(self.memory)

    def allocate(self, num_pages: int) -> None:
        self.memory = np.zeros((num_pages, PAGE_TOKENS), np.int64)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.memory[target] = self.memory[source]

    def step(self, sequences: Sequence[StepSequence], out: np.ndarray | None = None) -> np.ndarray:
        time.sleep(self.step_seconds)
        if self.failure is not None:
            raise self.failure
        rows = [self._row(sequence) for sequence in sequences]
        wanted = [row for row, sequence in zip(rows, sequences, strict=True) if len(sequence.wanted)]
        return np.stack(wanted) if wanted else np.empty((0, self.vocab_size), np.float32)

    def _row(self, sequence: StepSequence) -> np.ndarray:
        positions = sequence.first_position + np.arange(len(sequence.tokens))
        self.memory[sequence.pages[positions // PAGE_TOKENS], positions % PAGE_TOKENS] = sequence.tokens
        if self.poisoned:
            return np.full(self.vocab_size, np.nan, np.float32)
        seen = self.memory[sequence.pages].reshape(-1)[: positions[-1] + 1]
        generator = np.random.default_rng(seen)
        return generator.standard_normal(self.vocab_size, np.float32) * 3


def fake_engine(
    directory: Path,
    *,
    step_seconds: float = 0.0,
    max_positions: int = 512,
    num_pages: int = 256,
    eos_ids: tuple[int, ...] = (),
    tiers: tuple[str, ...] = ("best",),
    max_sequences: int = 64,
    max_queue: int = 1024,
) -> tuple[Engine, FakeRunner]:
    """An engine over a fake runner, with the tokenizer of `directory`."""
    config = ModelConfig(
        family="llama",
        vocab_size=Tokenizer.load(directory).vocab_size,
        hidden_size=8,
        head_dim=8,
        max_positions=max_positions,
        norm_eps=1e-5,
        eos_ids=eos_ids,
        blocks=(BlockConfig(num_heads=1, num_kv_heads=1, intermediate_size=8),),
    )
    runner = FakeRunner(config.vocab_size, step_seconds)
    artifact: Any = FakeArtifact(directory, config, tiers=tiers)
    engine = Engine(
        artifact, runner=runner, num_pages=num_pages, max_sequences=max_sequences, max_queue=max_queue
    )
    return engine, runner
