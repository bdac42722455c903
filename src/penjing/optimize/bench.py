"""Times an artifact as it serves, beside what the machine's measured limits allow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from penjing.artifact import Artifact
from penjing.engine import Engine, Sampling
from penjing.errors import PromptTooLongError, SpecError
from penjing.measure.cost import Roofline, model_cost, roofline, stored_bytes
from penjing.measure.machine import Machine, probe_machine
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import runnable
from penjing.spec import Spec, Tier

ROUNDS = 5


class Bench(Spec):
    """Medians over rounds. TTFT counts from submission of all streams at once to the first token of each."""

    model: str
    tier: Tier
    prompt_tokens: int
    output_tokens: int
    streams: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    median_ttft_seconds: float
    p99_ttft_seconds: float
    median_inter_token_seconds: float
    p99_inter_token_seconds: float
    machine: Machine
    limit: Roofline


@dataclass
class Arrivals:
    """Seconds since submission at which each stream's tokens came."""

    seconds: dict[int, list[float]]

    @property
    def first(self) -> list[float]:
        """The first token of each stream."""
        return [times[0] for times in self.seconds.values()]

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the last prompt was read: earlier ones shared their steps with prompts."""
        boundary = max(self.first)
        decoding = [second for times in self.seconds.values() for second in times if second > boundary]
        return len(decoding) / (max(decoding) - boundary)

    @property
    def gaps(self) -> list[float]:
        """Seconds between successive tokens of a stream."""
        return [gap for times in self.seconds.values() for gap in np.diff(times).tolist()]


def measure_bench(
    model: str | Path,
    *,
    prompt_tokens: int = 256,
    output_tokens: int = 64,
    streams: int = 1,
    tier: Tier | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Bench:
    """Run `streams` greedy requests of random tokens at once, ROUNDS times.

    model: an artifact, or a checkpoint as it is. output_tokens: at least 2, as a rate needs two. Raises
    PromptTooLongError beyond the context, SpecError for a size out of range, ArtifactError, CheckpointError.
    """
    if min(prompt_tokens, streams) < 1 or output_tokens < 2:
        raise SpecError(
            f"{streams} streams of {prompt_tokens} prompt and {output_tokens} output tokens: there must be "
            "at least 1, 1 and 2"
        )
    artifact = Artifact.open(runnable(model, progress))
    config = artifact.config
    if prompt_tokens + output_tokens > config.max_positions:
        raise PromptTooLongError(
            f"{prompt_tokens} prompt and {output_tokens} output tokens exceed the context "
            f"of {config.max_positions} tokens"
        )
    chosen = tier or artifact.tiers[-1]
    engine = Engine(artifact, tier=chosen, threads=threads, max_sequences=streams, prefix_cache=False)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, config.vocab_size, (streams, prompt_tokens)).tolist()
    rounds = run_rounds(engine, prompts, output_tokens, progress)
    cost = model_cost(
        config, stored_bytes(artifact, chosen), context_tokens=prompt_tokens, prefill_tokens=prompt_tokens
    )
    machine = probe_machine(threads)
    first = np.quantile([second for arrivals in rounds for second in arrivals.first], [0.5, 0.99])
    gaps = np.quantile([gap for arrivals in rounds for gap in arrivals.gaps], [0.5, 0.99])
    return Bench(
        model=Path(model).name,
        tier=chosen,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        streams=streams,
        prefill_tokens_per_second=streams * prompt_tokens / median(max(a.first) for a in rounds),
        decode_tokens_per_second=median(a.decode_rate for a in rounds),
        median_ttft_seconds=float(first[0]),
        p99_ttft_seconds=float(first[1]),
        median_inter_token_seconds=float(gaps[0]),
        p99_inter_token_seconds=float(gaps[1]),
        machine=machine,
        limit=roofline(cost, machine),
    )


def run_rounds(
    engine: Engine, prompts: list[list[int]], output_tokens: int, progress: Progress
) -> list[Arrivals]:
    """One round that does not count, and ROUNDS that do."""
    rounds = []
    for done in range(1 + ROUNDS):
        progress("bench", done, 1 + ROUNDS)
        rounds.append(run_round(engine, prompts, output_tokens))
    progress("bench", 1 + ROUNDS, 1 + ROUNDS)
    return rounds[1:]


def run_round(engine: Engine, prompts: list[list[int]], output_tokens: int) -> Arrivals:
    """Submit all prompts, and note when each token comes."""
    sampling = Sampling(max_tokens=output_tokens, ignore_eos=True)
    start = time.perf_counter()
    arrivals: dict[int, list[float]] = {engine.submit(prompt, sampling): [] for prompt in prompts}
    while engine.has_work:
        for event in engine.step():
            arrivals[event.sequence_id].append(time.perf_counter() - start)
    return Arrivals(arrivals)
