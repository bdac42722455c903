"""Seconds of what is not a product: row-wise work, what a step and a block cost in themselves, sharing."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from penjing.kernels import _core
from penjing.measure.attention_times import measure_attention
from penjing.measure.probe_model import PAGE_TOKENS, ProbeShape, Stored, probe_model, step_of
from penjing.measure.step_cost import exchanged_floats, probe_loops, probe_products, probe_rest, widths_of
from penjing.measure.stopwatch import best_seconds, clock_of, less, usual_seconds
from penjing.measure.times import Memory, RowTimes
from penjing.spec import KvFormats

NANO = ProbeShape(hidden=64, inner=64, heads=1, kv_heads=1, head_dim=64, blocks=1)
EXCHANGING = (
    ProbeShape(hidden=256, inner=768, heads=2, kv_heads=1, head_dim=128, blocks=4),
    ProbeShape(hidden=1024, inner=2816, heads=8, kv_heads=2, head_dim=128, blocks=1),
    ProbeShape(hidden=2048, inner=5632, heads=16, kv_heads=2, head_dim=128, blocks=1),
)
SMALL = ProbeShape(hidden=512, inner=1536, heads=4, kv_heads=1, head_dim=128, blocks=1)
SIZE_BYTES = tuple(megabytes << 20 for megabytes in (2, 4, 8, 12, 16, 24, 32, 48, 112))  # around all caches
SHARED_ROWS, WAKES = 64, 25
ASLEEP_SECONDS = 1.5e-4  # what an engine does between steps of many streams, about
ROW_FLOATS, ROW_COUNT = 2048, 64
PASSES, APART_SECONDS = 10, 0.03


def measure_rows(threads: int, isa: str) -> RowTimes:
    """What rows cost outside products and attention, and a loop that threads share."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROW_COUNT, ROW_FLOATS), np.float32)
    row, out, flat = values[0].copy(), np.empty(ROW_FLOATS, np.float32), values.reshape(-1).copy()
    weight, half, gated = np.ones(ROW_FLOATS, np.float32), np.ones(64, np.float32), np.empty_like(flat)
    head = np.ones(128, np.float32)
    codes, scales = np.empty(values.size, np.int8), np.empty(values.size // 64, np.float32)
    sums = np.empty(scales.size, np.int32)
    call = best_seconds(lambda: _core.rotate(head[:2], half[:1], half[:1], isa))  # mostly the call itself
    quantize = best_seconds(lambda: _core.quantize_rows(values, 64, isa, codes, scales, sums))
    kernels = {
        "norm": less(best_seconds(lambda: _core.rms_norm(row, weight, 1e-5, isa, out)), call) / ROW_FLOATS,
        "quantize": quantize / values.size,
        "gate": best_seconds(lambda: _core.gate_multiply(flat, flat, "silu", isa, gated)) / flat.size,
        "rotate": less(best_seconds(lambda: _core.rotate(head, half, half, isa)), call) / head.size,
    }
    times = RowTimes.model_validate(kernels | measure_overheads(threads, isa))
    return times.model_copy(update=measure_sharing(threads, isa, times))


def measure_overheads(threads: int, isa: str) -> dict[str, float]:
    """Seconds of a step, a block and a row that no size explains: of models of next to nothing."""
    one = measure_attention(KvFormats(key="int8", value="int8"), queries=1, head_dim=64, rows=1, isa=isa)
    tile = one.tile_seconds + one.write_seconds
    deep = replace(NANO, blocks=17)
    seconds = {
        (shape.blocks, rows): best_seconds(
            step_of(probe_model(shape, Stored("int4", 64), threads, isa, rows=rows), rows)
        )
        for shape in (NANO, deep)
        for rows in (1, 16)
    }
    block, block_of_many = ((seconds[17, rows] - seconds[1, rows]) / 16 for rows in (1, 16))
    return {
        "step_seconds": max(seconds[1, 1] - block, 0.0),
        "block_seconds": max(block - tile, 0.0),
        "block_row_seconds": max((block_of_many - block) / 15 - tile, 0.0),
        "step_row_seconds": max((seconds[1, 16] - block_of_many - seconds[1, 1] + block) / 15, 0.0),
        "tile_seconds": tile,
    }


class Sharing:
    """A model on all threads beside the same on one, each at its best so far."""

    def __init__(self, shape: ProbeShape, threads: int, isa: str, rows: int, tokens: int = 1) -> None:
        """tokens: successive rows of a sequence."""
        self.shape, self.rows, self.threads = shape, rows, threads
        self.best = dict.fromkeys((1, threads), math.inf)
        self.steps = {
            count: step_of(probe_model(shape, Stored("int8", 64), count, isa, rows=rows), rows, tokens)
            for count in self.best
        }

    def look(self) -> None:
        """Time both once more."""
        for count, step in self.steps.items():
            self.best[count] = min(self.best[count], best_seconds(step, 2, clock_of(count)))

    def excess(self, rest: RowTimes, known: RowTimes) -> float:
        """Seconds beyond a fair share of what one thread takes, and beyond what is known of all threads."""
        shape, rows, threads = self.shape, self.rows, self.threads
        part = probe_products(shape, rows, threads) / (threads * probe_products(shape, 1, 1))
        shared = part * (self.best[1] - probe_rest(shape, rows, rest, 1))  # one may run them in chunks
        return max(self.best[threads] - shared - probe_rest(shape, rows, known, threads), 0.0)

    @property
    def exchanged(self) -> int:
        """Floats of all rows that threads hand to each other."""
        return self.rows * self.shape.blocks * exchanged_floats(widths_of(self.shape))


def measure_sharing(threads: int, isa: str, rest: RowTimes) -> dict[str, Any]:
    """What sharing costs: models on all threads, beside what they take on one.

    With one row, that threads meet. With many, that each reads what others have just written, by the float:
    of many sequences, or of a prompt. They take turns for some seconds: in a virtual machine two processors
    may be one for a moment.
    """
    if threads == 1:
        return {}
    meeting = Sharing(SMALL, threads, isa, 1)
    handing = {
        tokens: [Sharing(shape, threads, isa, SHARED_ROWS, tokens) for shape in EXCHANGING]
        for tokens in (1, PAGE_TOKENS)
    }
    for _ in range(PASSES):
        for probe in (meeting, *handing[1], *handing[PAGE_TOKENS]):
            probe.look()
        time.sleep(APART_SECONDS)
    met = meeting.excess(rest, rest) / probe_loops(SMALL, 1, threads)
    known = rest.model_copy(update={"loop_seconds": met})

    def exchange(tokens: int) -> tuple[float, ...]:
        found = [probe.excess(rest, known) / probe.exchanged for probe in handing[tokens]]
        return tuple(np.minimum.accumulate(found).tolist())  # wide products hide it

    return {
        "loop_seconds": met,
        "exchange_widths": tuple(shape.hidden for shape in EXCHANGING),
        "exchange": exchange(1),
        "exchange_of_prompt": exchange(PAGE_TOKENS),
        "wake_seconds": measure_wake(threads, isa),
    }


def measure_wake(threads: int, isa: str) -> float:
    """How much longer a step takes whose threads have gone to sleep, as they do between an engine's steps."""
    step = step_of(probe_model(SMALL, Stored("int8", 64), threads, isa, rows=1), 1)
    awake, asleep = [], []
    for _ in range(WAKES):
        start = time.perf_counter()
        step()
        awake.append(time.perf_counter() - start)
    for _ in range(WAKES):
        until = time.perf_counter() + ASLEEP_SECONDS
        while (start := time.perf_counter()) < until:
            pass
        step()
        asleep.append(time.perf_counter() - start)
    return max(median(asleep) - median(awake), 0.0)


def measure_memory(threads: int, isa: str, rest: RowTimes) -> Memory:
    """How near to cold a step's weights are, by how many bytes a step reads: of int8 weights, one row."""
    stored = Stored("int8", 64)
    found = []
    for nbytes in SIZE_BYTES:
        shape = SMALL.filling(nbytes, 1.03)
        step = step_of(probe_model(shape, stored, threads, isa, rows=1), 1)
        seconds = usual_seconds(step, clock_of(threads), warm=3, least=9, enough_seconds=0.05)
        found.append((seconds - probe_rest(shape, 1, rest, threads)) / shape.weights)
    slow, fast = max(found[-1], 1e-15), min(found[0], found[-1])
    spread = max(slow - fast, 1e-3 * slow)
    shares = np.maximum.accumulate(np.clip([(value - fast) / spread for value in found], 0.0, 1.0))
    return Memory(nbytes=SIZE_BYTES, coldness=tuple(shares.tolist()))
