"""The machine at hand: cores and memory it may use, and two quick rates, memory reads and int8 arithmetic.

The rates are probes for estimates, each under half a second; they are not benchmarks.
"""

from __future__ import annotations

import os
import platform
import time
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from penjing import kernels
from penjing.measure.stopwatch import usual_seconds
from penjing.spec import Spec

if TYPE_CHECKING:  # takes time to load, and who only counts cores does without
    from concurrent.futures import ThreadPoolExecutor

CGROUP_ROOT = Path("/sys/fs/cgroup")
BANDWIDTH_BYTES_PER_CORE = 48 << 20  # beyond the share of any last-level cache that one core may have
WORK_FLOATS = 1 << 15
PROBE_TOKENS, PROBE_WIDTH, PROBE_GROUP = 512, 1024, 64  # a thread starts in a twentieth of the product


class Machine(Spec):
    """What serves. Rates use every usable core; an operation is half a multiply-add."""

    cpu_model: str
    cores: int
    isa: str
    memory_bytes: int
    read_bytes_per_second: float
    int8_operations_per_second: float


def probe_machine(threads: int | None = None) -> Machine:
    """Describe this machine and measure its two rates with `threads` (default: every usable core)."""
    cores = usable_cores()
    return Machine(
        cpu_model=cpu_model(),
        cores=cores,
        isa=kernels.default_isa(),
        memory_bytes=usable_memory_bytes(),
        read_bytes_per_second=measure_read_bandwidth(threads or cores),
        int8_operations_per_second=measure_int8_rate(threads or cores),
    )


def usable_cores() -> int:
    """Cores in the affinity mask, or fewer if a control group grants less processor time."""
    # macOS has no affinity masks.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def usable_memory_bytes() -> int:
    """Physical memory, or the control group's limit if that is smaller."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [physical]
    for directory in _cgroup_directories():
        text = _read(directory / "memory.max")
        if text and text.isdigit():
            limits.append(int(text))
    return min(limits)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def multiplies_bf16() -> bool:
    """Whether the processor has products of bfloat16, so that they are faster than those of float32."""
    lines = (_read(Path("/proc/cpuinfo")) or "").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))


def measure_read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read from memory together: a float32 maximum, median of a few."""
    return threads * BANDWIDTH_BYTES_PER_CORE / usual_seconds(Reading(threads).read)


def measure_int8_rate(threads: int) -> float:
    """Operations a second of the int8 kernel that serves, on a matrix that fits the cache."""
    groups = PROBE_WIDTH // PROBE_GROUP
    codes = np.full(PROBE_WIDTH * PROBE_WIDTH, 129, np.uint8)
    scales = np.full(PROBE_WIDTH * groups, 0x3C00, np.uint16)  # 1.0 in fp16
    matrix = kernels.Matrix("int8", PROBE_WIDTH, PROBE_WIDTH, PROBE_GROUP, codes, scales, None)
    inputs = np.ones((PROBE_TOKENS, PROBE_WIDTH), np.float32)
    rows = kernels.quantize_rows(inputs, PROBE_GROUP)
    seconds = usual_seconds(lambda: kernels.linear_quantized(matrix, rows, threads=threads))
    return 2 * PROBE_TOKENS * PROBE_WIDTH * PROBE_WIDTH / seconds


class Reading:
    """Reads memory beyond the caches with all threads, again and again, a few milliseconds each."""

    def __init__(self, threads: int) -> None:
        self.arrays = [np.ones(BANDWIDTH_BYTES_PER_CORE // 4, np.float32) for _ in range(threads)]
        self.pool = spread_threads(threads)

    def read(self) -> None:
        """One pass of all threads."""
        list(self.pool.map(np.max, self.arrays))

    def bytes_per_second(self) -> float:
        """Of one pass."""
        if len(self.arrays) == 1:  # alone, by processor time: what else runs does not count
            start = time.thread_time()
            self.arrays[0].max()
            return BANDWIDTH_BYTES_PER_CORE / (time.thread_time() - start)
        start = time.perf_counter()
        self.read()
        return len(self.arrays) * BANDWIDTH_BYTES_PER_CORE / (time.perf_counter() - start)


class Processors:
    """How much of the processors threads get, look by look.

    Other programs take their time. Other machines on the same host take a part of their speed: two processors
    of a virtual machine may be one core at one moment and two at the next, which no clock of it shows; so
    each look is compared with the best one so far.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = spread_threads(threads)
        self.best_rate = 0.0

    def share(self, seconds: float = 0.02) -> float:
        """From 0 to 1: of the time, and of the best speed so far. Timings made with much less than 1 are of
        other people's work as well."""

        def work(_: int) -> tuple[float, float]:
            values = np.ones(WORK_FLOATS, np.float32)
            start, busy, count = time.perf_counter(), time.thread_time(), 0
            while time.perf_counter() - start < seconds:
                np.sin(values, out=values)  # without the lock on Python
                count += 1
            passed = time.perf_counter() - start
            return (time.thread_time() - busy) / passed, count / passed

        looks = list(self.pool.map(work, range(self.threads)))
        time_share, rate = (sum(values) / self.threads for values in zip(*looks, strict=True))
        self.best_rate = max(self.best_rate, rate)
        return float(min(time_share, rate / self.best_rate))


def spread_threads(threads: int) -> ThreadPoolExecutor:
    """Threads that each keep to a processor of their own, as those of the core do (csrc/threads.cpp): left
    alone, two may share one for a while beside an idle one."""
    from concurrent.futures import ThreadPoolExecutor

    if not hasattr(os, "sched_getaffinity"):
        return ThreadPoolExecutor(threads)
    processors = cycle(sorted(os.sched_getaffinity(0)))
    return ThreadPoolExecutor(threads, initializer=lambda: os.sched_setaffinity(0, {next(processors)}))


def _cgroup_directories() -> list[Path]:
    """This process's control groups (version 2), innermost first, up to the root."""
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        if line.startswith("0::"):
            inner = CGROUP_ROOT / line[3:].strip().lstrip("/")
            above = [parent for parent in inner.parents if parent.is_relative_to(CGROUP_ROOT)]
            return [inner, *above]
    return [CGROUP_ROOT]


def _cgroup_cpu_quota() -> float | None:
    """Cores' worth of time granted, the least over the enclosing groups; None without a limit."""
    quotas = []
    for directory in _cgroup_directories():
        fields = (_read(directory / "cpu.max") or "").split()
        if len(fields) == 2 and fields[0].isdigit():
            quotas.append(int(fields[0]) / int(fields[1]))
    return min(quotas, default=None)


def _read(path: Path) -> str | None:
    """A system file's text, or None where this system has no such file."""
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None
