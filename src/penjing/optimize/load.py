"""How fast an artifact serves the load that a budget speaks of, and in how much memory."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from penjing.artifact import Artifact
from penjing.artifact.certificate import MeasuredLoad
from penjing.measure.cost import kv_bytes_per_token
from penjing.optimize.bench.local import EngineTarget, open_engine
from penjing.optimize.bench.workload import Workload
from penjing.optimize.progress import Progress, silent
from penjing.optimize.serving import Request, served_peak_bytes
from penjing.spec import Tier

PROMPT_TOKENS, OUTPUT_TOKENS, ROUNDS = 256, 64, 4
STAGE = "load"


def measure_load(
    path: Path, streams: int, *, tier: Tier, threads: int, progress: Progress = silent
) -> MeasuredLoad:
    """`streams` requests at once, each a prompt and an answer of random tokens.

    The first round only warms up. Memory is that of a process that serves one of them, and the keys and
    values of the others.
    """
    artifact = Artifact.open(path, in_memory=True)
    prompt = min(PROMPT_TOKENS, artifact.config.max_positions - OUTPUT_TOKENS)
    workload = Workload(prompt_tokens=prompt, output_tokens=OUTPUT_TOKENS, streams=streams)
    target = EngineTarget(open_engine(artifact, tier, threads, [workload]))
    timelines = []
    for number in range(ROUNDS):
        progress(STAGE, number, ROUNDS)
        timelines.append(target.run(workload, number))
    peak = served_peak_bytes(path, tier, threads, Request([0] * prompt, OUTPUT_TOKENS))
    cached = sum(kv_bytes_per_token(artifact.config, block) for block in artifact.config.blocks)
    progress(STAGE, ROUNDS, ROUNDS)
    gaps = sorted(gap for timeline in timelines[1:] for gap in timeline.gaps)
    return MeasuredLoad(
        streams=streams,
        prompt_tokens=prompt,
        output_tokens=OUTPUT_TOKENS,
        seconds_per_token=median(gaps),
        p95_seconds_per_token=gaps[int(0.95 * len(gaps))],
        tokens_per_second=median(timeline.decode_rate for timeline in timelines[1:]),
        peak_memory_bytes=peak + (streams - 1) * (prompt + OUTPUT_TOKENS) * cached,
    )
