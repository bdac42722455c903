"""What a step costs around the compiled core: scheduling, sampling, events, and the memory of a process.

One thread does all of it, so that processor time tells, whatever else runs.
"""

from __future__ import annotations

import tempfile
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.engine import Engine, Sampling
from penjing.engine.pages import pages_for
from penjing.engine.runner import check_types
from penjing.engine.sampling import ChoiceRequest, Sampler
from penjing.engine.step import StepSequence
from penjing.measure.cost_table import CostTable
from penjing.measure.machine import BANDWIDTH_BYTES_PER_CORE
from penjing.optimize.bench.random_artifact import random_artifact
from penjing.optimize.serving import Request, served_peak_bytes
from penjing.spec import Spec

STEPS, FIRSTS = 40, 4
PASSES, APART_SECONDS = 8, 0.05  # what disturbs some does not disturb all
STREAMS = (1, 16)
PROMPT_TOKENS, MANY_PROMPT_TOKENS = 8, 512
VOCABULARY = 1 << 15
CACHE_BYTES = (
    BANDWIDTH_BYTES_PER_CORE // 16
)  # a step of a model leaves nothing of Python in the nearer caches


class HostTimes(Spec):
    """Seconds of the engine outside its runner: of a step, each further stream in it, each token of a prompt
    when it is submitted and read, and each logit of a row that is sampled greedily. process_bytes: the most
    memory of a process that serves a model of next to nothing."""

    step_seconds: float
    stream_seconds: float
    prompt_seconds: float
    logit_seconds: float
    process_bytes: int


def host_times(table: CostTable) -> HostTimes:
    """From the table, or measured now."""
    return table.entry("host", HostTimes, lambda: measure_host(table.key.threads, table.key.isa))


def measure_host(threads: int, isa: str) -> HostTimes:
    """An engine whose runner computes nothing."""
    with tempfile.TemporaryDirectory() as directory:
        artifact = random_artifact("tiny", "int4", directory=Path(directory))
        runner = IdleRunner()
        engine = Engine(
            artifact,
            threads=threads,
            isa=isa,
            num_pages=(max(STREAMS) + 1) * (pages_for(MANY_PROMPT_TOKENS) + 2),
            prefix_cache=False,
            runner=runner,
        )
        steps: dict[int, list[float]] = {streams: [] for streams in STREAMS}
        firsts: dict[int, list[float]] = {tokens: [] for tokens in (PROMPT_TOKENS, MANY_PROMPT_TOKENS)}
        for _ in range(PASSES):
            for streams, seconds in steps.items():
                seconds.extend(step_seconds(engine, runner, streams))
            for tokens, seconds in firsts.items():
                seconds.extend(first_seconds(engine, runner, tokens))
            time.sleep(APART_SECONDS)
        one, many = (usual(seconds) for seconds in steps.values())
        short, long = (usual(seconds) for seconds in firsts.values())
        process_bytes = served_peak_bytes(artifact, None, threads, Request([1] * PROMPT_TOKENS, 2))
    each = max(many - one, 0.0) / (STREAMS[1] - STREAMS[0])
    return HostTimes(
        step_seconds=one,
        stream_seconds=each,
        prompt_seconds=max(long - short, 0.0) / (MANY_PROMPT_TOKENS - PROMPT_TOKENS),
        logit_seconds=sampling_seconds(threads, isa),
        process_bytes=process_bytes,
    )


class IdleRunner:
    """A runner whose logits are zeros, and which empties the nearer caches as a model's weights do.

    That is what counts as its own time; what it takes to hand sequences to the core counts as the engine's.
    """

    capacity, num_pages = 1 << 20, 0

    def __init__(self) -> None:
        self.busy_seconds = 0.0
        self._weights = np.ones(CACHE_BYTES // 4, np.float32)

    def allocate(self, num_pages: int) -> None:
        """Pages of nothing."""
        self.num_pages = num_pages

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Nothing to copy."""

    def step(
        self, sequences: Sequence[StepSequence], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Zeros for every wanted row."""
        assert sequences, "an engine runs no empty steps"
        assert out is not None, "an engine brings its own logits"
        for sequence in sequences:
            check_types(sequence)
        start = time.thread_time()
        out[:] = self._weights.max() - 1
        self.busy_seconds += time.thread_time() - start
        return out


def step_seconds(engine: Engine, runner: IdleRunner, streams: int) -> list[float]:
    """Of steps in which so many streams decode."""
    for _ in range(streams):
        engine.submit([1] * PROMPT_TOKENS, Sampling(max_tokens=STEPS + 2, ignore_eos=True))
    engine.step()
    seconds = []
    while engine.has_work:
        seconds.append(host_seconds(engine, runner))
    return seconds


def first_seconds(engine: Engine, runner: IdleRunner, prompt_tokens: int) -> list[float]:
    """From a prompt's submission to its first token."""
    seconds = []
    for _ in range(FIRSTS):
        start = time.thread_time()
        engine.submit([1] * prompt_tokens, Sampling(max_tokens=1, ignore_eos=True))
        submitted = time.thread_time() - start
        seconds.append(submitted + host_seconds(engine, runner))
    return seconds


def host_seconds(engine: Engine, runner: IdleRunner) -> float:
    """Of one step, its runner left out."""
    before, start = runner.busy_seconds, time.thread_time()
    engine.step()
    return time.thread_time() - start - (runner.busy_seconds - before)


def sampling_seconds(threads: int, isa: str) -> float:
    """Seconds a logit of one row, chosen from greedily."""
    sampler = Sampler(threads, isa)
    logits = np.random.default_rng(0).standard_normal((1, VOCABULARY), np.float32)
    requests = [ChoiceRequest(0, Sampling().options(), array("i", [1]))]
    seconds = []
    for _ in range(STEPS):
        start = time.thread_time()
        sampler.choose(logits, requests)
        seconds.append(time.thread_time() - start)
    return usual(seconds) / VOCABULARY


def usual(seconds: list[float]) -> float:
    """The lower quartile: what a machine takes that other work leaves alone."""
    return float(np.quantile(seconds, 0.25))
