"""How fast engines serve one request, measured in turn, and how much memory serving takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from penjing.engine import Engine, Sampling
from penjing.errors import EngineError
from penjing.optimize.progress import Progress
from penjing.spec import Spec, Tier

MAX_PROMPT_TOKENS = 256
DECODED_TOKENS = 32
MAX_REQUEST_TOKENS = MAX_PROMPT_TOKENS + DECODED_TOKENS
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
class Request:
    """What is served to measure: token ids, and how many to decode."""

    prompt: list[int]
    decoded_tokens: int


@dataclass(frozen=True)
class RequestTiming:
    """Seconds from submission to the first token, and from the first token to the last."""

    first_token_seconds: float
    decode_seconds: float


def measure_serving(
    engines: Mapping[str, Engine], request: Request, stage: str, progress: Progress
) -> dict[str, list[RequestTiming]]:
    """Time one request on each engine, round after round, so that drift of the machine strikes all alike."""
    timings: dict[str, list[RequestTiming]] = {name: [] for name in engines}
    for round_number in range(WARMUP_ROUNDS + ROUNDS):
        progress(stage, round_number, WARMUP_ROUNDS + ROUNDS)
        for name, engine in engines.items():
            timing = time_request(engine, request)
            if round_number >= WARMUP_ROUNDS:
                timings[name].append(timing)
    progress(stage, WARMUP_ROUNDS + ROUNDS, WARMUP_ROUNDS + ROUNDS)
    return timings


def time_request(engine: Engine, request: Request) -> RequestTiming:
    """Serve one greedy request, end-of-text ignored."""
    sampling = Sampling(max_tokens=request.decoded_tokens, ignore_eos=True)
    start = time.perf_counter()
    arrivals = [
        time.perf_counter() for event in engine.stream(request.prompt, sampling) if event.token is not None
    ]
    return RequestTiming(arrivals[0] - start, arrivals[-1] - arrivals[0])


def summarize_serving(
    timings: Sequence[RequestTiming], request: Request, peak_rss_bytes: int
) -> ServingSpeed:
    """Medians of timings as rates. Prefill is the whole wait for the first token."""
    first = float(np.median([timing.first_token_seconds for timing in timings]))
    decode = float(np.median([timing.decode_seconds for timing in timings]))
    return ServingSpeed(
        prompt_tokens=len(request.prompt),
        decoded_tokens=request.decoded_tokens,
        ttft_seconds=first,
        prefill_tokens_per_second=len(request.prompt) / first,
        decode_tokens_per_second=(request.decoded_tokens - 1) / decode,
        peak_rss_bytes=peak_rss_bytes,
    )


def make_request(documents: Sequence[Sequence[int]], bos: int | None, max_positions: int) -> Request:
    """A request from the beginning of the text that fits the model's context."""
    decoded = min(DECODED_TOKENS, max_positions // 2)
    start = [] if bos is None else [bos]
    tokens = [token for document in documents for token in document[:MAX_PROMPT_TOKENS]]
    return Request((start + tokens)[: min(MAX_PROMPT_TOKENS, max_positions - decoded)], decoded)


def served_peak_bytes(artifact: Path, tier: Tier | None, threads: int | None, request: Request) -> int:
    """Peak physical memory of a fresh process that opens the artifact and serves one request.

    Raises EngineError if that process fails.
    """
    order = {"artifact": str(artifact), "tier": tier, "threads": threads, "request": asdict(request)}
    child = subprocess.run(
        [sys.executable, "-m", "penjing.optimize.footprint"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{artifact}: measuring the memory of serving failed ({last})")
    return int(child.stdout)
