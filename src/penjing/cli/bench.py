"""Times an artifact as it serves, beside what the machine's measured limits allow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from penjing.artifact import Artifact
from penjing.cli.show import print_table
from penjing.engine import Engine, Sampling
from penjing.errors import PromptTooLongError
from penjing.measure.cost import Roofline, model_cost, roofline, stored_bytes
from penjing.measure.machine import Machine, probe_machine
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
    path: Path,
    *,
    prompt_tokens: int,
    output_tokens: int,
    streams: int,
    tier: Tier | None,
    threads: int | None,
) -> Bench:
    """Run `streams` greedy requests at once, ROUNDS times. Raises PromptTooLongError beyond the context."""
    artifact = Artifact.open(path)
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
    run_round(engine, prompts, output_tokens)
    rounds = [run_round(engine, prompts, output_tokens) for _ in range(ROUNDS)]
    cost = model_cost(
        config, stored_bytes(artifact, chosen), context_tokens=prompt_tokens, prefill_tokens=prompt_tokens
    )
    machine = probe_machine(threads)
    first = np.quantile([second for arrivals in rounds for second in arrivals.first], [0.5, 0.99])
    gaps = np.quantile([gap for arrivals in rounds for gap in arrivals.gaps], [0.5, 0.99])
    return Bench(
        model=path.name,
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


def run_round(engine: Engine, prompts: list[list[int]], output_tokens: int) -> Arrivals:
    """Submit all prompts, and note when each token comes."""
    sampling = Sampling(max_tokens=output_tokens, ignore_eos=True)
    start = time.perf_counter()
    arrivals: dict[int, list[float]] = {engine.submit(prompt, sampling): [] for prompt in prompts}
    while engine.has_work:
        for event in engine.step():
            arrivals[event.sequence_id].append(time.perf_counter() - start)
    return Arrivals(arrivals)


def print_bench(result: Bench) -> None:
    """One table: what was measured, and the limit where a single stream has one."""
    limit, one = result.limit, result.streams == 1
    decode_share = result.decode_tokens_per_second / limit.decode_tokens_per_second
    prefill_share = result.prefill_tokens_per_second / limit.prefill_tokens_per_second
    print_table(
        f"{result.model}, tier {result.tier}, {result.machine.isa}: "
        f"{result.streams} x ({result.prompt_tokens} + {result.output_tokens}) tokens",
        ("", "measured", "of the limit"),
        [
            ("Prefill, tokens/s", f"{result.prefill_tokens_per_second:,.0f}", f"{prefill_share:.0%}"),
            (
                "Decode, tokens/s",
                f"{result.decode_tokens_per_second:,.0f}",
                f"{decode_share:.0%}" if one else "",
            ),
            ("TTFT, median and p99", milliseconds(result.median_ttft_seconds, result.p99_ttft_seconds), ""),
            (
                "Between tokens, median and p99",
                milliseconds(result.median_inter_token_seconds, result.p99_inter_token_seconds),
                "",
            ),
        ],
    )


def milliseconds(middle: float, p99: float) -> str:
    """Two latencies on one line."""
    return f"{1e3 * middle:,.2f} / {1e3 * p99:,.2f} ms"
