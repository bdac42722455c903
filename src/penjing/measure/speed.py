"""How long a callable takes, how much it does in a second, and how much memory the process ever held."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from penjing.spec import Spec

SELF_STATUS = Path("/proc/self/status")


class Timing(Spec):
    """Latencies of repeated calls, in seconds. Medians, because one slow call should not move the result."""

    repeats: int
    min_seconds: float
    p10_seconds: float
    median_seconds: float
    p90_seconds: float
    p99_seconds: float
    max_seconds: float

    def rate(self, amount: float) -> float:
        """`amount` of work a call, per second, at the median."""
        return amount / self.median_seconds


def measure_speed(call: Callable[[], object], *, warmup: int = 1, repeats: int = 5) -> Timing:
    """Time `repeats` calls after `warmup` calls that do not count."""
    return measure_interleaved({"call": call}, warmup=warmup, repeats=repeats)["call"]


def measure_interleaved(
    calls: Mapping[str, Callable[[], object]], *, warmup: int = 1, repeats: int = 5
) -> dict[str, Timing]:
    """Time several callables in turn, round after round, so that drift of the machine strikes all alike."""
    assert repeats > 0
    for _ in range(warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: summarize_seconds(values) for name, values in seconds.items()}


def summarize_seconds(seconds: Sequence[float]) -> Timing:
    """Percentiles of measured latencies (linear interpolation between order statistics)."""
    values = np.asarray(seconds, np.float64)
    low, median, high, highest = np.percentile(values, [10, 50, 90, 99])
    return Timing(
        repeats=len(values),
        min_seconds=float(values.min()),
        p10_seconds=float(low),
        median_seconds=float(median),
        p90_seconds=float(high),
        p99_seconds=float(highest),
        max_seconds=float(values.max()),
    )


def peak_rss_bytes() -> int:
    """The most physical memory that this process ever held, mapped files that it touched included."""
    if SELF_STATUS.exists():
        for line in SELF_STATUS.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
