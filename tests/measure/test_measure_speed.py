"""Timings of callables, and the memory a process held."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from penjing.measure.speed import measure_interleaved, measure_speed, peak_rss_bytes, summarize_seconds


def test_warm_up_calls_do_not_count() -> None:
    calls: list[float] = []

    def first_is_slow() -> None:
        time.sleep(0.0 if calls else 0.05)
        calls.append(0.0)

    timing = measure_speed(first_is_slow, warmup=1, repeats=4)
    assert len(calls) == 5
    assert timing.repeats == 4
    assert timing.max_seconds < 0.05


def test_percentiles_are_in_order() -> None:
    timing = summarize_seconds([0.3, 0.1, 0.2, 0.5, 0.4])
    assert (timing.min_seconds, timing.median_seconds, timing.max_seconds) == (0.1, 0.3, 0.5)
    assert timing.p10_seconds == pytest.approx(0.14)
    assert timing.p90_seconds == pytest.approx(0.46)
    assert timing.rate(3.0) == pytest.approx(10.0)


def test_sides_take_turns() -> None:
    order: list[str] = []
    measure_interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, warmup=1, repeats=2)
    assert order == ["a", "b"] * 3


def test_peak_memory_stays_after_memory_is_freed() -> None:
    code = (
        "from penjing.measure.speed import peak_rss_bytes\n"
        "before = peak_rss_bytes(); block = bytearray(80_000_000); del block\n"
        "print(before, peak_rss_bytes())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(int, output.split())
    assert after - before > 70_000_000
    assert peak_rss_bytes() > 10_000_000
