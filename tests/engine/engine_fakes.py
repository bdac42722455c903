"""A runner whose logits depend on what really stands in its pages, and an artifact for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penjing.artifact import BlockConfig, ModelConfig
from penjing.engine import MAX_STRETCH, Engine, Sampling
from penjing.engine.step import PAGE_TOKENS, StepSequence

VOCAB = 61
EMPTY = -1


def model_config(max_positions: int = 256, eos_ids: tuple[int, ...] = ()) -> ModelConfig:
    block = BlockConfig(num_heads=1, num_kv_heads=1, intermediate_size=8)
    return ModelConfig(
        family="llama",
        vocab_size=VOCAB,
        hidden_size=8,
        head_dim=8,
        max_positions=max_positions,
        norm_eps=1e-5,
        eos_ids=eos_ids,
        blocks=(block,),
    )


@dataclass
class FakeArtifact:
    """What the engine reads of an artifact."""

    config: ModelConfig
    path: Path = Path("fake")
    hash: str = "0" * 64
    tiers: tuple[str, ...] = ("fast", "best")


class FakeRunner:
    """Stores tokens in pages as a real runner stores keys and values: wherever it is told to.

    Logits of a position hash what the pages hold for all positions up to it, so a page that is wrong, stale,
    shared while written, or not computed changes them.
    """

    def __init__(self) -> None:
        self.memory = np.empty((0, PAGE_TOKENS, 2), np.int32)  # token, tier
        self.steps: list[list[StepSequence]] = []
        self.poison_token: int | None = None  # logits of prefixes that end in it are NaN

    @property
    def capacity(self) -> int:
        return 1 << 12

    @property
    def num_pages(self) -> int:
        return len(self.memory)

    def allocate(self, num_pages: int) -> None:
        self.memory = np.full((num_pages, PAGE_TOKENS, 2), EMPTY, np.int32)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.memory[target] = self.memory[source]

    def step(self, sequences: Sequence[StepSequence], out: np.ndarray | None = None) -> np.ndarray:
        assert sequences, "an empty step"
        self.steps.append(list(sequences))
        for sequence in sequences:
            self._check(sequence)
            positions = sequence.first_position + np.arange(len(sequence.tokens))
            rows = sequence.pages[positions // PAGE_TOKENS], positions % PAGE_TOKENS
            self.memory[rows] = np.stack(
                [sequence.tokens, np.full_like(sequence.tokens, tier_number(sequence))], 1
            )
        rows = [self._logits(s, int(index)) for s in sequences for index in s.wanted]
        return np.stack(rows) if rows else np.empty((0, VOCAB), np.float32)

    def _check(self, sequence: StepSequence) -> None:
        for array in (sequence.tokens, sequence.pages, sequence.wanted):
            assert array.dtype == np.int32
        assert len(set(sequence.pages.tolist())) == len(sequence.pages)
        assert sequence.pages.min() >= 0
        assert sequence.pages.max() < self.num_pages
        assert len(sequence.pages) * PAGE_TOKENS >= sequence.first_position + len(sequence.tokens)

    def _logits(self, sequence: StepSequence, index: int) -> np.ndarray:
        last = sequence.first_position + index
        seen = self.memory[sequence.pages].reshape(-1, 2)[: last + 1]
        if seen[-1, 0] == self.poison_token:
            return np.full(VOCAB, np.nan, np.float32)
        return hashed_logits(seen[:, 0], seen[:, 1])


def tier_number(sequence: StepSequence) -> int:
    return ("fast", "best").index(sequence.tier)


def hashed_logits(tokens: np.ndarray, tiers: np.ndarray) -> np.ndarray:
    """Uniform on a 16-bit grid in [-4, 4)."""
    content = tokens.astype(np.int32).tobytes() + tiers.astype(np.int32).tobytes()
    numbers = np.frombuffer(hashlib.shake_128(content).digest(2 * VOCAB), np.uint16)
    return numbers.astype(np.float32) / 8192 - 4


def expected_answer(tokens: Sequence[int], sampling: Sampling, tier: str = "best") -> list[int]:
    """What a sequence generates on its own engine, with all the room in the world."""
    engine = fake_engine(max_positions=4096, num_pages=200, prefix_cache=False)
    sequence_id = engine.submit(tokens, sampling, tier)
    return drain(engine)[sequence_id]


def fake_engine(
    *,
    max_positions: int = 256,
    eos_ids: tuple[int, ...] = (),
    path: Path = Path("fake"),
    num_pages: int | None = 64,
    max_step_tokens: int = 512,
    max_sequences: int = 64,
    max_queue: int = 1024,
    max_stretch: float = MAX_STRETCH,
    prefix_cache: bool = True,
) -> Engine:
    return Engine(
        FakeArtifact(model_config(max_positions, eos_ids), path),
        runner=FakeRunner(),
        num_pages=num_pages,
        max_step_tokens=max_step_tokens,
        max_sequences=max_sequences,
        max_queue=max_queue,
        max_stretch=max_stretch,
        prefix_cache=prefix_cache,
    )


def drain(engine: Engine, most_steps: int = 10_000) -> dict[int, list[int]]:
    """Step until there is no work; each sequence's tokens."""
    answers: dict[int, list[int]] = {}
    for _ in range(most_steps):
        if not engine.has_work:
            return answers
        for event in engine.step():
            answers.setdefault(event.sequence_id, [])
            if event.token is not None:
                answers[event.sequence_id].append(event.token)
    raise AssertionError(f"still at work after {most_steps} steps")
