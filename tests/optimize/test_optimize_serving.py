"""Requests that fit the context, and memory measured in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.errors import EngineError
from penjing.optimize.progress import silent
from penjing.optimize.serving import (
    ROUNDS,
    Request,
    make_request,
    measure_serving,
    served_peak_bytes,
    summarize_serving,
)


def test_requests_fit_the_context() -> None:
    assert make_request([[5] * 1000], 1, 4096) == Request([1] + [5] * 255, 32)
    assert make_request([[5] * 1000], None, 128) == Request([5] * 96, 32)
    assert make_request([[5, 6], [7]], 1, 4096) == Request([1, 5, 6, 7], 32)
    tiny = make_request([[5] * 1000], 1, 16)
    assert len(tiny.prompt) + tiny.decoded_tokens == 16


def test_rates_follow_from_timings(int8: Artifact, reference: Path) -> None:
    engines = {"a": Engine(int8, threads=1), "b": Engine(reference, threads=1)}
    request = Request([1, 3, 4, 5], 8)
    timings = measure_serving(engines, request, "speed", silent)
    assert {name: len(rounds) for name, rounds in timings.items()} == {"a": ROUNDS, "b": ROUNDS}
    speed = summarize_serving(timings["a"], request, 1)
    first = sorted(timing.first_token_seconds for timing in timings["a"])[ROUNDS // 2]
    decode = sorted(timing.decode_seconds for timing in timings["a"])[ROUNDS // 2]
    assert speed.ttft_seconds == first
    assert speed.prefill_tokens_per_second == pytest.approx(4 / first)
    assert speed.decode_tokens_per_second == pytest.approx(7 / decode)


def test_a_process_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not an artifact"):
        served_peak_bytes(tmp_path, None, 1, Request([1], 2))
