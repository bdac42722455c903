"""Seconds of the parts of a step on this machine, measured: products by format, attention, and what is left.

Products are timed inside whole steps of the compiled core over constant weights (probe_model.py), with all
threads, and what is not a product (`Rest`) is taken off; so they hold whatever a step does to them. Twice:
over a model so small that its weights stay in the caches (warm), and over one that must come from memory
(cold). Attention and row-wise work are timed by their kernels, on one thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from penjing.kernels import _core
from penjing.measure.machine import Reading
from penjing.measure.probe_model import ProbeShape, Stored, probe_model, step_of
from penjing.measure.sharing import in_chunks, rows_of_tile
from penjing.measure.step_cost import exchanged_floats, probe_loops, probe_products, probe_rest, widths_of
from penjing.measure.times import AttentionTimes, Memory, ProductTimes, RowTimes
from penjing.spec import KvFormat

FEW_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80)
MANY_ROWS = (96, 128, 192, 256, 384, 512)
MEMORY_ROWS = 16  # up to which memory may be what a product waits for
WARM = (  # the first that is small enough
    ProbeShape(hidden=1024, inner=2816, heads=8, kv_heads=2, head_dim=128, blocks=1),
    ProbeShape(hidden=512, inner=1408, heads=4, kv_heads=1, head_dim=128, blocks=1),
)
COLD = ProbeShape(hidden=2048, inner=5632, heads=16, kv_heads=2, head_dim=128, blocks=1)
SIZES = ProbeShape(hidden=512, inner=1536, heads=4, kv_heads=1, head_dim=128, blocks=1)
NARROW = ProbeShape(hidden=256, inner=768, heads=2, kv_heads=1, head_dim=128, blocks=4)
SHARED_ROWS, WAKES, ASLEEP_SECONDS = 64, 25, 2e-4
WARM_BYTES, COLD_BYTES = 16 << 20, 112 << 20
SIZE_BYTES = (2 << 20, 4 << 20, 8 << 20, 12 << 20, 16 << 20, 24 << 20, 32 << 20, 48 << 20, COLD_BYTES)
REPEATS, PASSES, ENOUGH_SECONDS, LONG_SECONDS = 5, 3, 0.005, 0.8
ROW_FLOATS, ROW_COUNT = 2048, 64
SPANS = (256, 2048)  # positions of the two contexts between which attention is interpolated


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
    times = RowTimes(
        norm=less(best_seconds(lambda: _core.rms_norm(row, weight, 1e-5, isa, out)), call) / ROW_FLOATS,
        quantize=quantize / values.size,
        gate=best_seconds(lambda: _core.gate_multiply(flat, flat, "silu", isa, gated)) / flat.size,
        rotate=less(best_seconds(lambda: _core.rotate(head, half, half, isa)), call) / head.size,
        **measure_overheads(threads, isa),
    )
    return times.model_copy(update=measure_sharing(threads, isa, times))


def measure_overheads(threads: int, isa: str) -> dict[str, float]:
    """Seconds of a step, of a block and of a row in it that no size explains: of models of next to nothing."""
    one = measure_attention("int8", "int8", 1, 64, 1, isa)
    tile = one.tile_seconds + one.write_seconds
    nano = ProbeShape(hidden=64, inner=64, heads=1, kv_heads=1, head_dim=64, blocks=1)
    deep = ProbeShape(hidden=64, inner=64, heads=1, kv_heads=1, head_dim=64, blocks=17)
    seconds = {
        (shape.blocks, rows): best_seconds(
            step_of(probe_model(shape, Stored("int4", 64), threads, isa, rows=rows), rows)
        )
        for shape in (nano, deep)
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


def measure_sharing(threads: int, isa: str, rest: RowTimes) -> dict[str, float]:
    """What sharing costs: models on all threads, beside what they take on one.

    With one row, that threads meet. With many, that each reads what others have just written, by the float.
    """
    if threads == 1:
        return {}
    stored = Stored("int8", 64)

    def excess(shape: ProbeShape, rows: int, times: RowTimes) -> float:
        steps = [step_of(probe_model(shape, stored, count, isa, rows=rows), rows) for count in (1, threads)]
        passes = [[best_seconds(step) for step in steps] for _ in range(PASSES)]
        alone, together = (min(seconds) for seconds in zip(*passes, strict=True))
        work = (alone - probe_rest(shape, rows, rest, 1)) / probe_products(shape, rows, 1)
        shared = work * probe_products(shape, rows, threads) / threads
        return max(together - shared - probe_rest(shape, rows, times, threads), 0.0)

    met = rest.model_copy(update={"loop_seconds": excess(SIZES, 1, rest) / probe_loops(SIZES, 1, threads)})
    floats = SHARED_ROWS * NARROW.blocks * exchanged_floats(widths_of(NARROW))
    return {
        "loop_seconds": met.loop_seconds,
        "exchange": excess(NARROW, SHARED_ROWS, met) / floats,
        "wake_seconds": measure_wake(threads, isa),
    }


def measure_wake(threads: int, isa: str) -> float:
    """How much longer a step takes whose threads have gone to sleep, as they do between an engine's steps."""
    step = step_of(probe_model(SIZES, Stored("int8", 64), threads, isa, rows=1), 1)
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
        shape = SIZES.filling(nbytes, 1.03)
        seconds = best_seconds(step_of(probe_model(shape, stored, threads, isa, rows=1), 1))
        found.append((seconds - probe_rest(shape, 1, rest, threads)) / shape.weights)
    slow, fast = max(found[-1], 1e-15), min(found[0], found[-1])
    spread = max(slow - fast, 1e-3 * slow)
    shares = np.maximum.accumulate(np.clip([(value - fast) / spread for value in found], 0.0, 1.0))
    return Memory(nbytes=SIZE_BYTES, coldness=tuple(shares.tolist()))


def measure_product(
    stored: Stored, threads: int, isa: str, rest: RowTimes, coldness: Callable[[float], float]
) -> ProductTimes:
    """Seconds a weight of products with few and with many rows, warm and cold."""
    few = [rows for rows in FEW_ROWS if not in_chunks(rows, threads)]
    many = [rows for rows in MANY_ROWS if in_chunks(rows, threads)]
    each = stored.nbytes(1024, 1024) / 1024**2
    small = next((shape for shape in WARM if shape.weights * each < WARM_BYTES), WARM[-1])
    alone = Probe(small, stored, 1, isa, rest)
    warm = [  # one thread runs chunks of fewer rows, whose seconds are a row's
        seconds * (rows if in_chunks(rows, 1) else 1) / threads
        for rows, seconds in zip(few, alone.seconds(few), strict=True)
    ]
    warm += Probe(small, stored, threads, isa, rest).seconds(many)
    few_cold, bandwidth = cold_seconds(stored, threads, isa, rest, each, warm)
    cold = [max(pair) for pair in zip(few_cold, warm, strict=False)] + warm[len(few_cold) : len(few)]
    cold += Probe(COLD, stored, threads, isa, rest).seconds(many)
    part = min(coldness(small.weights * each), 0.9)
    warm = [min(c, max((w - part * c) / (1 - part), 0.3 * w)) for w, c in zip(warm, cold, strict=True)]
    return ProductTimes(
        rows=tuple(few + many),
        warm=ascending(warm, len(few)),
        cold=ascending(cold, len(few)),
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

    def seconds(self, rows: Sequence[int]) -> list[float]:
        """Seconds a weight at each number of rows, the best of a few steps."""
        if not rows:
            return []
        model = self.model(max(rows))
        best = dict.fromkeys(rows, math.inf)
        start = time.perf_counter()
        for number in range(PASSES):  # far apart, so that what disturbs one does not disturb all
            if number > 1 and time.perf_counter() - start > LONG_SECONDS:
                break
            for count in rows:
                best[count] = min(best[count], best_seconds(step_of(model, count), 1))
        return [self.per_weight(seconds, count) for count, seconds in best.items()]

    def per_weight(self, seconds: float, rows: int) -> float:
        """Of a step's seconds, those of its products, for each weight; of many rows, and each row of the
        busiest thread."""
        products = seconds - probe_rest(self.shape, rows, self.rest, self.threads, self.stored.is_integer)
        return max(products, 0.05 * seconds) / probe_products(self.shape, rows, self.threads)


def cold_seconds(
    stored: Stored, threads: int, isa: str, rest: RowTimes, each: float, warm: Sequence[float]
) -> tuple[list[float], float]:
    """Seconds a weight that memory may set, and the bytes a second that memory gave.

    Memory of a shared machine is fast at one moment and slow at the next. So it is probed before every step,
    and each step's time is related to the probe beside it, before the medians are taken.
    """
    probe = Probe(COLD.filling(COLD_BYTES, each), stored, threads, isa, rest)
    model, reading = probe.model(MEMORY_ROWS), Reading(threads)
    counts = [rows for rows in FEW_ROWS if rows <= MEMORY_ROWS]
    found = []
    for _ in range(REPEATS):
        for rows in counts:
            step = step_of(model, rows)
            before = reading.bytes_per_second()
            start = time.perf_counter()
            step()
            found.append((rows, time.perf_counter() - start, before))
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


def ascending(seconds: Sequence[float], few: int) -> tuple[float, ...]:
    """A product with more rows never takes less: what a disturbed step took too long gives way to the next.
    Of many rows, seconds are a row's, and nearly the same."""
    values = np.array(seconds[:few])
    rising = np.minimum.accumulate(values[::-1])[::-1].tolist()
    if not seconds[few:]:
        return tuple(rising)
    usual = median(seconds[few:])
    return (*rising, *(min(max(value, 0.93 * usual), 1.07 * usual) for value in seconds[few:]))


def measure_attention(
    key: KvFormat, value: KvFormat, queries: int, head_dim: int, rows: int, isa: str
) -> AttentionTimes:
    """One KV head, read from the caches by one thread: a tile of `rows` tokens, by its positions."""
    rng = np.random.default_rng(0)
    most = SPANS[-1]
    keys, values = rng.standard_normal((2, most, 1, head_dim), np.float32)
    pages = np.arange(most // 32, dtype=np.int32)
    cache = _core.Attention(keys, values, key, value, pages, isa)
    query = rng.standard_normal((rows, 1, queries, head_dim), np.float32)
    out = np.empty_like(query)

    def at(positions: int) -> float:
        first = positions - rows
        return best_seconds(lambda: cache.attend(query, first, 0, head_dim**-0.5, 0.0, rows, False, out))

    call = call_seconds(isa)
    nearest, short, long = (less(at(positions), call) for positions in (max(rows, 8), *SPANS))
    each = max(long - short, 0.0) / (SPANS[1] - SPANS[0])
    page = rng.standard_normal((32, 1, head_dim), np.float32)
    writing = sum(
        best_seconds(lambda f=name, k=is_key: _core.written_page(page, f, k, isa))  # type: ignore[misc]
        for name, is_key in ((key, True), (value, False))
    )
    return AttentionTimes(
        rows=rows,
        tile_seconds=min(nearest, short),
        span_seconds=max(short, each * SPANS[0]),
        position_seconds=each,
        write_seconds=writing / 32,
    )


def call_seconds(isa: str) -> float:
    """What a call from Python costs around the least of attentions."""
    least = np.zeros((32, 1, 16), np.float32)
    cache = _core.Attention(least, least, "fp32", "fp32", np.zeros(1, np.int32), isa)
    query = np.zeros((1, 1, 1, 16), np.float32)
    out = np.empty_like(query)
    return best_seconds(lambda: cache.attend(query, 0, 0, 1.0, 0.0, 1, False, out))


def measure_attentions(
    key: KvFormat, value: KvFormat, num_heads: int, num_kv_heads: int, head_dim: int, isa: str
) -> tuple[AttentionTimes, AttentionTimes]:
    """Of one row, and of a tile of a prompt's rows."""
    queries, rows = num_heads // num_kv_heads, rows_of_tile(num_heads, num_kv_heads)
    one = measure_attention(key, value, queries, head_dim, 1, isa)
    return one, one if rows == 1 else measure_attention(key, value, queries, head_dim, rows, isa)


def best_seconds(call: Callable[[], object], most: int = REPEATS) -> float:
    """The best of a few calls, or of a few batches of short ones: what other work does not disturb."""
    call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    batch = max(1, int(ENOUGH_SECONDS / most / once))
    if once > ENOUGH_SECONDS:
        most -= 1
    for _ in range(most):
        start = time.perf_counter()
        for _ in range(batch):
            call()
        once = min(once, (time.perf_counter() - start) / batch)
    return once


def less(seconds: float, part: float) -> float:
    """What is left, and at least a tenth: two timings never differ exactly by what they should."""
    return max(seconds - part, 0.1 * seconds)
