"""A server in a thread, and a runner whose speed and failures a test decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from openai import OpenAI

from penjing.artifact import BlockConfig, ModelConfig
from penjing.engine import Engine
from penjing.engine.step import PAGE_TOKENS, StepSequence
from penjing.serve import create_app
from penjing.serve.run import DrainingServer, listen


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
    def num_pages(self) -> int:
        return len(self.memory)

    def allocate(self, num_pages: int) -> None:
        self.memory = np.zeros((num_pages, PAGE_TOKENS), np.int64)

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.memory[target] = self.memory[source]

    def step(self, sequences: Sequence[StepSequence]) -> np.ndarray:
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
    from penjing.text import Tokenizer

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


class RunningServer:
    """The application behind a real socket, in a thread; a context manager."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        api_keys: frozenset[str] = frozenset(),
        grace_seconds: float = 10.0,
        **options: int,
    ) -> None:
        self.engines = engines
        self.listener = listen("127.0.0.1", 0)
        app = create_app(engines, api_keys=api_keys, **options)
        self.server = DrainingServer(app, self.listener, grace_seconds=grace_seconds)
        self.service = self.server.service
        self.url = self.server.url
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))

    def __enter__(self) -> Self:
        self.thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive(), "the server does not end"

    def client(self, api_key: str = "none", **options: Any) -> OpenAI:
        """The official client. It does not retry, so that a test sees the first answer."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, **options)

    def http(self, **options: Any) -> httpx.Client:
        """A plain client."""
        return httpx.Client(base_url=self.url, timeout=30, **options)


def wait_until(holds: Any, timeout_seconds: float = 20.0) -> None:
    """Wait for a condition that another thread makes true."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
