"""Speed of products and attention beside what this machine can do: `make bench`, or with PENJING_ISA=avx2.

Formats to time may be named (`bench/kernels.py int4 int3`); int4+ is int4 with zero points.

Weights [5632, 2048] in enough copies that they come from memory and not from a cache. Integer formats have
groups of 64 (mxfp4: 32) and rows that are quantized beforehand. With several threads each owns a share of
the rows. Times are processor time of the slowest thread, best of five: wall time on a quiet machine, and on a
busy one what it would be with the processors to itself, though other work still takes caches and memory
bandwidth away. Peaks are measured in the same way just before, by peak.cpp.

Attention is that of one block with 32 heads of 64 dimensions over 4 KV heads, which threads share: one token
after a long context, over so many caches that they come from memory, in several formats, and whole prompts in
int8. Operations are those of eight bits: two for a query and a key, four for a weight, which has two digits,
and a value.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.formats import PartSizes, part_sizes
from penjing.formats.encoded import FLOAT_BYTES
from penjing.kernels import Matrix, _core, default_isa, linear, linear_quantized, quantize_rows

ROWS, COLUMNS, GROUP_SIZE = 5632, 2048, 64
INTEGERS = (
    "int4",
    "int8",
    "layered",
    "int2",
    "int3",
    "int5",
    "int6",
    "int4+",
    "int8+",
    "table2",
    "table3",
    "table4",
)
FORMATS = (*INTEGERS, "nf4", "mxfp4", "fp8", "bf16", "fp16", "fp32")
TOKENS = (1, 8, 16, 512)
TOTAL_BYTES = 160 << 20  # larger than level-3 caches
TRIALS = 5
HEAD_DIM, KV_HEADS, QUERIES = 64, 4, 8
HEAD_BYTES = {  # of a token
    "int8": HEAD_DIM + 4,
    "int6": HEAD_DIM * 6 // 8 + 2,
    "int5": HEAD_DIM * 5 // 8 + 2,
    "int4": HEAD_DIM // 2 + 2,
}
CONTEXTS = (  # formats of keys and values, tokens, and how many of them are attended from
    ("int8", "int8", 8192, 1),
    ("int6", "int6", 8192, 1),
    ("int6", "int4", 8192, 1),
    ("int5", "int5", 8192, 1),
    ("int4", "int4", 8192, 1),
    ("int8", "int8", 512, 512),
    ("int8", "int8", 2048, 2048),
)


def measure_peaks(directory: Path, threads: int) -> tuple[float, float]:
    """(int8 GOP/s, GB/s read) of this many threads."""
    program = directory / "peak"
    source = Path(__file__).with_name("peak.cpp")
    subprocess.run(["c++", "-O3", "-march=native", "-pthread", str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True).stdout
    operations, read = map(float, printed.split())
    return operations, read


def random_matrix(format: str, rows: int) -> Matrix:
    """Random codes, or zeros for floats, whose speed does not depend on them."""
    rng = np.random.default_rng(0)
    sizes, name = sizes_of(format, rows), format.rstrip("+")
    if name in FLOAT_BYTES:
        return Matrix(name, rows, COLUMNS, 0, np.ones(sizes.codes, np.uint8) * 0)

    def plane(size: int) -> NDArray[np.uint8] | None:
        return rng.integers(0, 256, size, np.uint8) if size else None

    return Matrix(
        name,
        rows,
        COLUMNS,
        group_size_of(format),
        rng.integers(0, 256, sizes.codes, np.uint8),
        np.full(sizes.scales // 2, 0.01, np.float16).view(np.uint16),
        plane(sizes.residual),
        plane(sizes.high),
        plane(sizes.zeros),
        rng.integers(-127, 128, 16, np.int8) if sizes.table else None,
    )


def group_size_of(format: str) -> int:
    """Columns that share a scale."""
    return 32 if format == "mxfp4" else GROUP_SIZE


def sizes_of(format: str, rows: int) -> PartSizes:
    """Bytes of the parts of a matrix with so many rows."""
    return part_sizes(format.rstrip("+"), rows, COLUMNS, group_size_of(format), format.endswith("+"))


def product(format: str, x: NDArray[np.float32]) -> Callable[[Matrix], object]:
    """What is timed for one matrix."""
    if format not in INTEGERS:
        return lambda matrix: linear(matrix, x)
    rows = quantize_rows(x, GROUP_SIZE)
    return lambda matrix: linear_quantized(matrix, rows)


def seconds_per_product(shares: list[list[Any]], run: Callable[[Any], object], rounds: int) -> float:
    """Time of one whole product: thread i runs its share of every copy, `rounds` products in all."""
    seconds = [0.0] * len(shares)

    def work(thread: int, start: threading.Barrier) -> None:
        start.wait()
        begin = time.thread_time()
        for index in range(rounds):
            run(shares[thread][index % len(shares[thread])])
        seconds[thread] = (time.thread_time() - begin) / rounds

    best = float("inf")
    for _ in range(TRIALS):
        start = threading.Barrier(len(shares))
        workers = [threading.Thread(target=work, args=(thread, start)) for thread in range(len(shares))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = min(best, max(seconds))
    return best


def random_attention(key: str, value: str, context: int, kv_heads: int) -> _core.Attention:
    """A cache of random keys and values, in shuffled pages."""
    rng = np.random.default_rng(0)
    keys, values = rng.standard_normal((2, context, kv_heads, HEAD_DIM), np.float32)
    pages = rng.permutation(context // 32).astype(np.int32)
    return _core.Attention(keys, values, key, value, pages, default_isa())


def attend(context: int, rows: int, kv_heads: int) -> Callable[[_core.Attention], object]:
    """What is timed for one cache: the last `rows` tokens, in tiles as a step cuts them."""
    query = np.random.default_rng(1).standard_normal((rows, kv_heads, QUERIES, HEAD_DIM), np.float32)
    out = np.empty_like(query)
    return lambda cache: cache.attend(query, context - rows, 0, HEAD_DIM**-0.5, 0.0, 2, False, out)


def print_attention(threads: int, peak: float, read: float) -> None:
    """One line a context."""
    print("attention  context  tokens        ms   GOP/s  of peak    GB/s  of read")
    for key, value, context, rows in CONTEXTS:
        cache_bytes = context * KV_HEADS * (HEAD_BYTES[key] + HEAD_BYTES[value])
        copies = TOTAL_BYTES // cache_bytes if rows == 1 else 1
        shares = [
            [random_attention(key, value, context, KV_HEADS // threads) for _ in range(copies)]
            for _ in range(threads)
        ]
        seconds = seconds_per_product(shares, attend(context, rows, KV_HEADS // threads), copies)
        pairs = rows * (context - rows) + rows * (rows + 1) // 2
        operations = 2 * 3 * pairs * HEAD_DIM * KV_HEADS * QUERIES / seconds / 1e9
        line = f"{key},{value}  {context:>7} {rows:>7} {seconds * 1e3:>9.3f} {operations:>7.0f}"
        line += f" {operations / peak:8.0%}"
        if rows == 1:
            speed = cache_bytes / seconds / 1e9
            line += f" {speed:>7.1f} {speed / read:>8.0%}"
        print(line)


def main() -> None:
    """Print one line a format, number of threads and number of tokens."""
    print(f"instruction set {default_isa()}, weights [{ROWS}, {COLUMNS}], groups of {GROUP_SIZE}")
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        with tempfile.TemporaryDirectory() as directory:
            peak, read = measure_peaks(Path(directory), threads)
        print(f"\n{threads} thread(s): peak {peak:.0f} GOP/s int8, {read:.1f} GB/s read")
        print("format   tokens        ms   GOP/s  of peak    GB/s  of read")
        for format in sys.argv[1:] or FORMATS:
            weight_bytes = sizes_of(format, ROWS).total
            copies = int(TOTAL_BYTES / weight_bytes) + 1
            shares = [[random_matrix(format, ROWS // threads) for _ in range(copies)] for _ in range(threads)]
            for tokens in TOKENS:
                x = np.random.default_rng(1).standard_normal((tokens, COLUMNS)).astype(np.float32)
                rounds = 2 if tokens > 16 else copies
                seconds = seconds_per_product(shares, product(format, x), rounds)
                operations = 2 * tokens * ROWS * COLUMNS / seconds / 1e9
                speed = weight_bytes / seconds / 1e9
                of_peak = f"{operations / peak:8.0%}" if format in INTEGERS else "       -"
                print(
                    f"{format:<8} {tokens:>6} {seconds * 1e3:>9.3f} {operations:>7.0f} {of_peak} "
                    f"{speed:>7.1f} {speed / read:>8.0%}"
                )
        if not sys.argv[1:]:
            print_attention(threads, peak, read)


if __name__ == "__main__":
    main()
