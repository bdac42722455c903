"""Predicted beside measured latency: random artifacts of several shapes and formats, streams and prompts.

    python bench/predictions.py --prepare            # writes the artifacts
    python bench/predictions.py [--output FILE]      # measures, predicts, and prints how far apart they are
    python bench/predictions.py --memory             # the same of peak memory

What the table of costs lacks is measured first. Each round takes every artifact in turn: memory is probed,
each number of streams decodes for a few steps (their median counts) and each prompt is read to its first
token. A prediction takes the table, and the speed of memory from the probes beside the measurement. What is
compared is the median over rounds of both. It waits while other work takes the processors, and measures
again what that disturbed; one thread (--threads 1) is timed by processor time at once. --seconds ends it all.
PENJING_CACHE in another directory begins with an empty table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

from penjing.engine import Engine, Sampling
from penjing.measure.cost_table import CostTable
from penjing.measure.machine import Reading
from penjing.measure.stopwatch import Clock, clock_of
from penjing.models.shapes import SHAPES, shape
from penjing.optimize.bench import random_artifact
from penjing.optimize.bench.random_artifact import BenchFormat
from penjing.optimize.predict import cost_table, predict_artifact
from penjing.optimize.progress import silent
from penjing.optimize.serving import Request, served_peak_bytes

STREAMS, PROMPTS = (1, 2, 4, 8, 16), (64, 128, 256, 512)
MEMORY_PROMPT = 256
CONTEXT, STEPS, ENOUGH_SECONDS, SLEEP_SECONDS = 32, 12, 0.03, 1.0
FORMATS: dict[str, tuple[tuple[BenchFormat, int], ...]] = {
    "tiny": (("int8", 64), ("int4", 64), ("table3", 64)),
    "8 blocks of 512": (("int8", 64), ("int4", 64), ("table2", 64), ("int6", 64)),
    "4 blocks of qwen3-0.6b": (("int8", 64), ("int4", 64), ("table4", 64), ("layered", 64)),
    "3 blocks of tinyllama-1.1b": (
        ("int8", 64),
        ("int4", 128),
        ("table3", 64),
        ("layered", 64),
        ("bf16", 64),
    ),
}
BEYOND_CACHES = ("4 blocks of qwen3-0.6b", "3 blocks of tinyllama-1.1b")
NEW_SHAPES = {
    "8 blocks of 512": shape(
        "llama", vocab=4096, hidden=512, inner=1408, layers=8, heads=8, kv_heads=4, head_dim=64,
        positions=2048, theta=1e4, tied=True,
    ),
    "4 blocks of qwen3-0.6b": SHAPES["qwen3-0.6b"].model_copy(
        update={"blocks": SHAPES["qwen3-0.6b"].blocks[:4], "vocab_size": 32768}
    ),
    "3 blocks of tinyllama-1.1b": SHAPES["tinyllama-1.1b"].model_copy(
        update={"blocks": SHAPES["tinyllama-1.1b"].blocks[:3]}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """Seconds of a decoding step or to a first token."""

    shape: str
    format: str
    load: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted / self.measured - 1


def artifacts() -> Iterator[tuple[str, str, Path]]:
    """Every shape and format, written on first use."""
    SHAPES.update(NEW_SHAPES)
    for name, formats in FORMATS.items():
        for format, group_size in formats:
            label = format if format == "bf16" else f"{format}/{group_size}"
            yield name, label, random_artifact(name, format, group_size, progress=silent)  # type: ignore[arg-type]


def open_engine(path: Path, threads: int) -> Engine:
    """Reads prompts as fast as it can, and reuses nothing."""
    pages = (max(STREAMS) + 1) * (max(PROMPTS) // 32 + 2)
    return Engine(path, threads=threads, num_pages=pages, max_stretch=math.inf, prefix_cache=False)


def decode_seconds(engine: Engine, streams: int, rng: np.random.Generator, clock: Clock) -> float:
    """Between two tokens while so many streams decode: the median of the steps of some time, when the caches
    have had as long to fill with what they read."""
    seconds: list[float] = []
    while sum(seconds) < 2 * ENOUGH_SECONDS:
        for _ in range(streams):
            tokens = rng.integers(0, engine.config.vocab_size, CONTEXT).tolist()
            engine.submit(tokens, Sampling(max_tokens=STEPS + 1, ignore_eos=True))
        while len({event.sequence_id for event in engine.step()}) < streams:
            pass
        while engine.has_work:
            start = clock()
            engine.step()
            seconds.append(clock() - start)
    return median(seconds[len(seconds) // 2 :])


def first_token_seconds(engine: Engine, prompt: int, rng: np.random.Generator, clock: Clock) -> float:
    """From submission to the first token, the median of a few."""
    seconds: list[float] = []
    while sum(seconds) < ENOUGH_SECONDS:
        tokens = rng.integers(0, engine.config.vocab_size, prompt).tolist()
        start = clock()
        engine.submit(tokens, Sampling(max_tokens=1, ignore_eos=True))
        while engine.has_work:
            engine.step()
        seconds.append(clock() - start)
    return median(seconds)


def round_of(
    engine: Engine, table: CostTable, reading: Reading, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """(predicted, measured) of every load, once."""
    clock = clock_of(table.key.threads)
    measured, probes = {}, [reading.bytes_per_second() for _ in range(3)]
    for streams in STREAMS:
        measured[f"{streams} streams"] = decode_seconds(engine, streams, rng, clock)
        probes.append(reading.bytes_per_second())
    for prompt in PROMPTS:
        measured[f"prompt of {prompt}"] = first_token_seconds(engine, prompt, rng, clock)
    speed = median(probes)
    found = {}
    for streams in STREAMS:
        expected = predict_artifact(
            engine.artifact, table, context=CONTEXT + STEPS // 2, prompt=CONTEXT, streams=streams,
            read_bytes_per_second=speed,
        )  # fmt: skip
        load = f"{streams} streams"
        found[load] = (expected.decode_seconds_per_token, measured[load])
    for prompt in PROMPTS:
        expected = predict_artifact(engine.artifact, table, prompt=prompt, read_bytes_per_second=speed)
        load = f"prompt of {prompt}"
        found[load] = (expected.prefill_seconds, measured[load])
    return found


def compare(rounds: int, threads: int, limit_seconds: float) -> list[Compared]:
    """Every shape, format and load, after one that does not count."""
    begin = time.perf_counter()
    table, rng, reading = cost_table(threads), np.random.default_rng(0), Reading(threads)
    engines = [(name, format, open_engine(path, threads)) for name, format, path in artifacts()]
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    waiting = deque((index, number) for index in range(len(engines)) for number in (0, 1))
    waiting.extend((index, number) for number in range(2, rounds + 1) for index in range(len(engines)))
    while waiting and time.perf_counter() - begin < limit_seconds:
        index, number = waiting[0]
        name, format, engine = engines[index]
        if table.is_disturbed():
            time.sleep(SLEEP_SECONDS)
            continue
        if number == 0:  # what is done but once, and does not count
            table.forget_busy()
            predict_artifact(engine.artifact, table)
            first_token_seconds(engine, max(PROMPTS), rng, clock_of(threads))
            done = threads == 1 or not table.busy
        else:
            pairs = round_of(engine, table, reading, rng)
            done = not table.is_disturbed()
            for load, pair in pairs.items() if done else ():
                found.setdefault((name, format, load), []).append(pair)
        if done:
            waiting.popleft()
    return [
        Compared(*key, *(median(pair[side] for pair in pairs) for side in (0, 1)))
        for key, pairs in found.items()
    ]


def print_memory(threads: int) -> None:
    """Peak memory of processes that serve one request each."""
    table = cost_table(threads)
    request = Request([1] * MEMORY_PROMPT, STEPS)
    print("| shape | format | predicted | measured | |\n|---|---|---:|---:|---:|")
    for name, format, path in artifacts():
        expected = predict_artifact(path, table, prompt=MEMORY_PROMPT, context=MEMORY_PROMPT + STEPS)
        peak = served_peak_bytes(path, None, threads, request)
        sizes = f"{expected.peak_memory_bytes / 1e6:.1f} MB | {peak / 1e6:.1f} MB"
        print(f"| {name} | {format} | {sizes} | {expected.peak_memory_bytes / peak - 1:+.1%} |")


def print_errors(rows: Sequence[Compared]) -> None:
    """A line a shape, format and kind of load, and quantiles over groups of them."""
    print("| shape | format | decoding: 1, 2, 4, 8, 16 streams | prompts of 64, 128, 256, 512 |")
    print("|---|---|---|---|")
    for name, format in dict.fromkeys((row.shape, row.format) for row in rows):
        here = [row for row in rows if (row.shape, row.format) == (name, format)]
        cells = [
            ", ".join(f"{1e3 * row.measured:.3g} ms {row.error:+.0%}" for row in here if kind in row.load)
            for kind in ("streams", "prompt")
        ]
        print(f"| {name} | {format} | {cells[0]} | {cells[1]} |")
    large = [row for row in rows if row.shape in BEYOND_CACHES]
    decoding = [row for row in rows if "streams" in row.load]
    groups = {
        "all": rows,
        "models beyond the caches": large,
        "of these, decoding": [row for row in large if row in decoding],
        "of these, prompts": [row for row in large if row not in decoding],
        "prompts of all models": [row for row in rows if row not in decoding],
        "small models, decoding": [row for row in decoding if row not in large],
    }
    print("\n| | combinations | median error | 95th percentile | largest | median difference |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, members in groups.items():
        errors = [row.error for row in members]
        sizes = np.abs(errors)
        quantiles = f"{np.median(sizes):.1%} | {np.quantile(sizes, 0.95):.1%} | {sizes.max():.1%}"
        print(f"| {name} | {len(members)} | {quantiles} | {np.median(errors):+.1%} |")


def main() -> None:
    """Prepare, or measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.prepare:
        for name, format, path in artifacts():
            print(f"{name}, {format}: {path}")
        return
    if options.memory:
        print_memory(options.threads)
        return
    rows = compare(options.rounds, options.threads, options.seconds)
    print_errors(rows)
    if options.output:
        options.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
