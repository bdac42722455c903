"""How fast engines serve one request, measured in turn, and how much memory serving takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penjing.engine import Engine, Sampling
from penjing.errors import EngineError
from penjing.optimize.progress import Progress
from penjing.spec import Spec, Tier

MAX_PROMPT_TOKENS = 256
DECODED_TOKENS = 32
WARMUP_ROUNDS = 1
ROUNDS = 5


class ServingSpeed(Spec):
    """One request at a time, medians over rounds; peak_rss_bytes of a process that serves nothing else."""

    prompt_tokens: int
    decoded_tokens: int
    ttft_seconds: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class RequestTiming:
    """Seconds from submission to the first token, and from the first token to the last."""

    first_token_seconds: float
    decode_seconds: float


def measure_serving(
    engines: Mapping[str, Engine], prompt: Sequence[int], stage: str, progress: Progress
) -> dict[str, list[RequestTiming]]:
    """Time one request on each engine, round after round, so that drift of the machine strikes all alike."""
    timings: dict[str, list[RequestTiming]] = {name: [] for name in engines}
    for round_number in range(WARMUP_ROUNDS + ROUNDS):
        progress(stage, round_number, WARMUP_ROUNDS + ROUNDS)
        for name, engine in engines.items():
            timing = time_request(engine, prompt)
            if round_number >= WARMUP_ROUNDS:
                timings[name].append(timing)
    progress(stage, WARMUP_ROUNDS + ROUNDS, WARMUP_ROUNDS + ROUNDS)
    return timings


def time_request(engine: Engine, prompt: Sequence[int]) -> RequestTiming:
    """Serve one greedy request of DECODED_TOKENS tokens, end-of-text ignored."""
    start = time.perf_counter()
    arrivals = [
        time.perf_counter()
        for event in engine.stream(prompt, Sampling(max_tokens=DECODED_TOKENS, ignore_eos=True))
        if event.token is not None
    ]
    return RequestTiming(arrivals[0] - start, arrivals[-1] - arrivals[0])


def summarize_serving(
    timings: Sequence[RequestTiming], prompt_tokens: int, peak_rss_bytes: int
) -> ServingSpeed:
    """Medians of timings as rates. Prefill is the whole wait for the first token."""
    first = float(np.median([timing.first_token_seconds for timing in timings]))
    decode = float(np.median([timing.decode_seconds for timing in timings]))
    return ServingSpeed(
        prompt_tokens=prompt_tokens,
        decoded_tokens=DECODED_TOKENS,
        ttft_seconds=first,
        prefill_tokens_per_second=prompt_tokens / first,
        decode_tokens_per_second=(DECODED_TOKENS - 1) / decode,
        peak_rss_bytes=peak_rss_bytes,
    )


def cut_prompt(documents: Sequence[Sequence[int]], bos: int | None, max_positions: int) -> list[int]:
    """A prompt from the text that leaves room for what will be decoded."""
    length = min(MAX_PROMPT_TOKENS, max_positions - DECODED_TOKENS)
    start = [] if bos is None else [bos]
    tokens = [token for document in documents for token in document]
    return (start + tokens)[: max(1, length)]


def served_peak_bytes(artifact: Path, tier: Tier | None, threads: int | None, prompt: Sequence[int]) -> int:
    """Peak physical memory of a fresh process that opens the artifact and serves one request.

    Raises EngineError if that process fails.
    """
    request = {"artifact": str(artifact), "tier": tier, "threads": threads, "prompt": list(prompt)}
    child = subprocess.run(
        [sys.executable, "-m", "penjing.optimize.footprint"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{artifact}: measuring the memory of serving failed ({last})")
    return int(child.stdout)
