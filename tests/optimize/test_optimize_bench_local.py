"""Timings of an engine in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penjing.artifact import Artifact
from penjing.errors import PromptTooLongError
from penjing.optimize.bench import Rounds, Workload, measure_bench
from penjing.optimize.bench import local as local_module
from penjing.optimize.bench.local import EngineTarget, open_engine

QUICK = Rounds(counted=2, warmup=0)
PAIR = Workload(prompt_tokens=8, output_tokens=6, streams=2)


def test_an_artifact_runs_at_the_tier_and_threads_asked_for(layered: Artifact) -> None:
    alone = PAIR.model_copy(update={"streams": 1})
    result = measure_bench(layered.path, (alone, PAIR), tier="fast", threads=1, rounds=QUICK)
    assert (result.model, result.tier, result.threads, result.rounds) == ("layered", "fast", 1, 2)
    for row in result.rows:
        assert 0 < row.ttft_seconds.p50 <= row.ttft_seconds.p90 <= row.ttft_seconds.p99
        assert (row.prompt_tokens, row.output_tokens, row.tokens_per_arrival) == (8, 6, 1)
        assert row.limit is not None
        assert row.decode_share == row.decode_tokens_per_second / row.limit.decode_tokens_per_second
        assert row.prefill_share == row.prefill_tokens_per_second / row.limit.prefill_tokens_per_second
    one, two = (row.limit for row in result.rows)
    assert one is not None
    assert two is not None
    assert one.decode_tokens_per_second < two.decode_tokens_per_second <= 2 * one.decode_tokens_per_second


def test_a_checkpoint_runs_as_it_is_without_a_share_of_the_integer_rate(checkpoint: Path) -> None:
    (row,) = measure_bench(checkpoint, (PAIR,), threads=1, rounds=QUICK).rows
    assert row.prefill_share is None
    assert row.decode_share is not None


def test_limits_are_measured_with_the_same_threads_around_every_round(
    layered: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[int] = []
    real = local_module.probe_machine(1)

    def probe(threads: int) -> object:
        probed.append(threads)
        return real.model_copy(update={"read_bytes_per_second": 1e9 * len(probed)})

    monkeypatch.setattr(local_module, "probe_machine", probe)
    machine = measure_bench(layered.path, (PAIR,), threads=1, rounds=QUICK).machine
    assert probed == [1] * (1 + QUICK.total)
    assert machine is not None
    assert machine.read_bytes_per_second == 1e9 * np.median(range(1, len(probed) + 1))


def test_prompts_keep_arriving_while_streams_decode(layered: Artifact) -> None:
    load = PAIR.model_copy(update={"output_tokens": 40, "arriving_tokens": 60})
    engine = open_engine(layered, "best", 1, (load,))
    timeline = EngineTarget(engine).run(load, seed=0)
    assert timeline.arriving is not None
    assert len(timeline.arriving) >= 3  # paced by time, so how many depends on the machine
    assert timeline.arriving[0].submitted >= timeline.decode_begins
    for before, after in zip(timeline.arriving, timeline.arriving[1:], strict=False):
        assert after.submitted == before.arrivals[0], "one at a time"
    assert len(timeline.gaps) < sum(len(stream.arrivals) for stream in timeline.streams)
    assert not engine.has_work
    assert engine.free_pages == engine.stats().pages_total
    assert engine.stats().preemptions == 0


def test_the_context_is_a_limit(layered: Artifact) -> None:
    with pytest.raises(PromptTooLongError, match=r"130 tokens.* holds 128"):
        measure_bench(layered.path, (Workload(prompt_tokens=128, output_tokens=2),))
    with pytest.raises(PromptTooLongError, match="holds 128"):
        measure_bench(layered.path, (PAIR.model_copy(update={"arriving_tokens": 128}),))
