"""Times an artifact in this process, through the engine that serves it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from penjing.artifact import Artifact, ModelConfig
from penjing.engine import MAX_STRETCH, Engine, Sampling
from penjing.engine.pages import pages_for
from penjing.engine.scoring import NON_FINITE
from penjing.errors import NonFiniteLogitsError, PromptTooLongError
from penjing.measure.cost import Roofline, model_cost, roofline, stored_bytes
from penjing.measure.machine import Machine, probe_machine, usable_cores
from penjing.optimize.bench.results import Bench, make_row
from penjing.optimize.bench.rounds import Rounds, run_rounds
from penjing.optimize.bench.timeline import Stream, Timeline
from penjing.optimize.bench.workload import Workload
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import runnable
from penjing.spec import Tier

STEP_TOKENS = 512  # the engine's own default


def measure_bench(
    model: str | Path,
    workloads: Sequence[Workload] = (Workload(),),
    *,
    tier: Tier | None = None,
    threads: int | None = None,
    rounds: Rounds = Rounds(),  # noqa: B008
    progress: Progress = silent,
) -> Bench:
    """Run greedy requests of random tokens, and relate their speed to what this machine allows.

    model: an artifact, or a checkpoint as it is. The machine's two limits are measured before the first round
    and after each, with the same threads, and their medians count, as medians of the rounds do. Raises
    PromptTooLongError beyond the context, SpecError for a number out of range, CapacityError, ArtifactError,
    CheckpointError.
    """
    artifact = Artifact.open(runnable(model, progress), in_memory=True)
    chosen, threads = tier or artifact.tiers[-1], threads or usable_cores()
    engine = open_engine(artifact, chosen, threads, workloads)
    target = ProbedTarget(EngineTarget(engine), threads)
    timelines = run_rounds(target, workloads, rounds, progress)
    machine = typical(target.probes)
    integer = artifact.entry("blocks.0.query").group_size > 0
    return Bench(
        model=Path(model).name,
        tier=chosen,
        threads=threads,
        machine=machine,
        rounds=rounds.counted,
        rows=tuple(
            make_row(workload, found, limit_of(artifact, chosen, workload, machine), integer=integer)
            for workload, found in zip(workloads, timelines, strict=True)
        ),
    )


class EngineTarget:
    """Runs workloads on an engine that does nothing else."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, workload: Workload, seed: int) -> Timeline:
        """Submit all streams, and step until the last has ended; a step's tokens all come at its end."""
        rng = np.random.default_rng(seed)
        streaming = Sampling(max_tokens=workload.output_tokens, ignore_eos=True)
        submitted = time.perf_counter()
        arrivals: dict[int, list[float]] = {}
        for _ in range(workload.streams):
            arrivals[self.submit(rng, workload.prompt_tokens, streaming)] = []
        arriving = None if workload.arriving_tokens is None else Arriving(self, rng, workload.arriving_tokens)
        running = set(arrivals)
        while running:
            events = self.engine.step()
            now = time.perf_counter()
            for event in events:
                if event.sequence_id in arrivals:
                    arrivals[event.sequence_id].append(now)
                if event.finish_reason == "error":
                    raise NonFiniteLogitsError(f"{self.engine.artifact.path}: {NON_FINITE}")
                if event.finish_reason is not None:
                    running.discard(event.sequence_id)
            if arriving is not None and all(arrivals.values()):
                arriving.keep_coming(now, {event.sequence_id for event in events})
        streams = [
            Stream(submitted, tuple(times), workload.prompt_tokens, len(times)) for times in arrivals.values()
        ]
        return Timeline(tuple(streams), None if arriving is None else arriving.close())

    def submit(self, rng: np.random.Generator, tokens: int, sampling: Sampling) -> int:
        """One request of random tokens."""
        return self.engine.submit(rng.integers(0, self.engine.config.vocab_size, tokens).tolist(), sampling)


class ProbedTarget:
    """Measures the machine before the first run and after each: on a shared one its limits come and go."""

    def __init__(self, target: EngineTarget, threads: int) -> None:
        self.target = target
        self.threads = threads
        self.probes = [probe_machine(threads)]

    def run(self, workload: Workload, seed: int) -> Timeline:
        """The target's own run."""
        timeline = self.target.run(workload, seed)
        self.probes.append(probe_machine(self.threads))
        return timeline


class Arriving:
    """Prompts that come one after another, each when the one before has its first token."""

    def __init__(self, target: EngineTarget, rng: np.random.Generator, tokens: int) -> None:
        self.target = target
        self.rng = rng
        self.tokens = tokens
        self.current: tuple[int, float] | None = None
        self.read: list[Stream] = []

    def keep_coming(self, now: float, finished: set[int]) -> None:
        """Note that the present prompt has been read, if it has, and submit the next."""
        if self.current is not None:
            sequence, submitted = self.current
            if sequence not in finished:
                return
            self.read.append(Stream(submitted, (now,), self.tokens, 1))
        self.current = self.target.submit(self.rng, self.tokens, Sampling(max_tokens=1)), now

    def close(self) -> tuple[Stream, ...]:
        """Cancel what is not read; what was."""
        if self.current is not None:
            self.target.engine.cancel(self.current[0])
        return tuple(self.read)


def open_engine(artifact: Artifact, tier: Tier, threads: int, workloads: Sequence[Workload]) -> Engine:
    """An engine with room for the largest workload, which reuses nothing. Raises PromptTooLongError."""
    for workload in workloads:
        check_fits(workload, artifact.config)
    sequences = max(workload.streams + (workload.arriving_tokens is not None) for workload in workloads)
    arrivals = any(workload.arriving_tokens is not None for workload in workloads)
    pages = max((workload.streams + 1) * (pages_for(workload.sequence_tokens) + 1) for workload in workloads)
    return Engine(
        artifact,
        tier=tier,
        threads=threads,
        num_pages=pages,
        max_sequences=sequences,
        max_step_tokens=max(STEP_TOKENS, sequences),
        max_queue=sequences,
        # Paced, prompts that come all at once would only let the first answers end before the last begin.
        max_stretch=MAX_STRETCH if arrivals else math.inf,
        prefix_cache=False,
    )


def check_fits(workload: Workload, config: ModelConfig) -> None:
    """Raises PromptTooLongError for more tokens than the context holds."""
    if workload.sequence_tokens > config.max_positions:
        raise PromptTooLongError(
            f"{workload.label} needs {workload.sequence_tokens} tokens, and the model's context holds "
            f"{config.max_positions}: ask for less"
        )


def limit_of(artifact: Artifact, tier: Tier, workload: Workload, machine: Machine) -> Roofline:
    """The machine's bound for a workload, at the mean context of its answers."""
    cost = model_cost(
        artifact.config,
        stored_bytes(artifact, tier),
        context_tokens=workload.prompt_tokens + workload.output_tokens // 2,
        prefill_tokens=workload.prompt_tokens,
    )
    return roofline(cost, machine, workload.streams)


def typical(probes: Sequence[Machine]) -> Machine:
    """One machine, with the median of each rate."""
    rates = ("read_bytes_per_second", "int8_operations_per_second")
    return probes[0].model_copy(
        update={name: median(getattr(probe, name) for probe in probes) for name in rates}
    )
