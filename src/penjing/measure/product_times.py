"""Seconds of products by format, inside whole steps of the compiled core over constant weights.

What is not a product (step_cost.py) is taken off a step's time, so that products are timed as they run, by
two kinds of models: one so small that its weights stay in the caches (warm), on one thread, because what
sharing adds is counted elsewhere; and one that must come from memory (cold), on all threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from penjing.kernels import _core
from penjing.measure.machine import Reading
from penjing.measure.probe_model import ProbeShape, Stored, probe_model, step_of
from penjing.measure.sharing import in_chunks
from penjing.measure.step_cost import probe_products, probe_rest
from penjing.measure.stopwatch import best_seconds, clock_of
from penjing.measure.times import Memory, ProductTimes, RowTimes

FEW_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80)
CHUNK_ROWS = (48, 64, 86)  # of one thread: chunks of 48, 64 and 43
MEMORY_ROWS = 16  # up to which memory may be what a product waits for
WARM = (  # the first that is small enough
    ProbeShape(hidden=1024, inner=2816, heads=8, kv_heads=2, head_dim=128, blocks=1),
    ProbeShape(hidden=512, inner=1408, heads=4, kv_heads=1, head_dim=128, blocks=1),
)
COLD = ProbeShape(hidden=2048, inner=5632, heads=16, kv_heads=2, head_dim=128, blocks=1)
WARM_BYTES, COLD_BYTES = 16 << 20, 112 << 20
PASSES, LONG_SECONDS = 3, 0.8  # a third pass is for formats that are quick
COLD_REPEATS = 9


def measure_product(stored: Stored, threads: int, isa: str, rest: RowTimes, memory: Memory) -> ProductTimes:
    """Seconds a weight of products with few and with many rows, warm and cold."""
    few = [rows for rows in FEW_ROWS if not in_chunks(rows, threads)]
    each = stored.nbytes(1024, 1024) / 1024**2
    small = next((shape for shape in WARM if shape.weights * each < WARM_BYTES), WARM[-1])
    # One thread runs chunks from fewer rows on, whose seconds are a row's.
    alone = Probe(small, stored, 1, isa, rest).seconds({*few, *CHUNK_ROWS})
    warm = [alone[rows] * (rows if in_chunks(rows, 1) else 1) / threads for rows in few]
    cold_probe = Probe(COLD.filling(COLD_BYTES, each), stored, threads, isa, rest)
    few_cold, bandwidth = cold_seconds(cold_probe, each, warm)
    cold = [max(pair) for pair in zip(few_cold, warm, strict=False)] + warm[len(few_cold) :]
    part = min(memory.coldness_of(small.weights * each), 0.9)
    warm = [min(c, max((w - part * c) / (1 - part), 0.3 * w)) for w, c in zip(warm, cold, strict=True)]
    return ProductTimes(
        rows=tuple(few),
        warm=ascending(warm),
        cold=ascending(cold),
        row_seconds=median(alone[rows] for rows in CHUNK_ROWS),
        bytes_per_weight=each,
        read_bytes_per_second=bandwidth,
    )


@dataclass(frozen=True)
class Probe:
    """A probe's shape and format, where it runs, and what is not a product in its steps."""

    shape: ProbeShape
    stored: Stored
    threads: int
    isa: str
    rest: RowTimes

    def model(self, rows: int) -> _core.Model:
        """With room for so many rows."""
        return probe_model(self.shape, self.stored, self.threads, self.isa, rows=rows)

    def seconds(self, rows: Iterable[int]) -> dict[int, float]:
        """Seconds a weight at each number of rows, the best of a few steps."""
        counts, clock = sorted(rows), clock_of(self.threads)
        model = self.model(counts[-1])
        best = dict.fromkeys(counts, math.inf)
        start = time.perf_counter()
        for number in range(PASSES):  # far apart, so that what disturbs one does not disturb all
            if number > 1 and time.perf_counter() - start > LONG_SECONDS:
                break
            for count in counts:
                best[count] = min(best[count], best_seconds(step_of(model, count), 1, clock))
        return {count: self.per_weight(seconds, count) for count, seconds in best.items()}

    def per_weight(self, seconds: float, rows: int) -> float:
        """Of a step's seconds, those of its products, for each weight; of many rows, and each row of the
        busiest thread."""
        products = seconds - probe_rest(self.shape, rows, self.rest, self.threads, self.stored.is_integer)
        return max(products, 0.05 * seconds) / probe_products(self.shape, rows, self.threads)


def cold_seconds(probe: Probe, each: float, warm: Sequence[float]) -> tuple[list[float], float]:
    """Seconds a weight that memory may set, and the bytes a second that memory gave.

    Memory of a shared machine is fast at one moment and slow at the next. So it is probed before every step,
    and each step's time is related to the probe beside it, before the medians are taken.
    """
    model, reading = probe.model(MEMORY_ROWS), Reading(probe.threads)
    counts, clock = [rows for rows in FEW_ROWS if rows <= MEMORY_ROWS], clock_of(probe.threads)
    found = []
    for _ in range(COLD_REPEATS):
        for rows in counts:
            step = step_of(model, rows)
            before = reading.bytes_per_second()
            start = clock()
            step()
            found.append((rows, clock() - start, before))
    bandwidth = median(before for _, _, before in found)
    seconds = []
    for rows, fastest in zip(counts, warm, strict=False):
        typical = max(fastest, each / bandwidth)
        taken = [
            probe.per_weight(step_seconds, rows) * typical / max(fastest, each / before)
            for count, step_seconds, before in found
            if count == rows
        ]
        seconds.append(median(taken))
    return seconds, bandwidth


def ascending(seconds: Sequence[float]) -> tuple[float, ...]:
    """A product with more rows never takes less: what a disturbed step took too long gives way."""
    return tuple(np.minimum.accumulate(np.array(seconds)[::-1])[::-1].tolist())
