"""Timings of many requests at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from penjing.artifact import Artifact
from penjing.errors import PromptTooLongError, SpecError
from penjing.optimize.bench import ROUNDS, Arrivals, measure_bench


def test_rates_by_hand() -> None:
    arrivals = Arrivals({0: [1.0, 2.0, 3.0], 1: [2.0, 3.0, 4.0]})
    assert arrivals.first == [1.0, 2.0]
    assert arrivals.gaps == [1.0] * 4
    assert arrivals.decode_rate == 3 / 2  # at 3, 3 and 4, after the last first token at 2


def test_an_artifact_and_a_checkpoint_run(layered: Artifact, checkpoint: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    result = measure_bench(
        layered.path,
        prompt_tokens=8,
        output_tokens=4,
        streams=2,
        tier="fast",
        threads=1,
        progress=lambda *step: steps.append(step),
    )
    assert (result.tier, result.streams, result.model) == ("fast", 2, "layered")
    assert 0 < result.median_ttft_seconds <= result.p99_ttft_seconds
    assert steps[-1] == ("bench", 1 + ROUNDS, 1 + ROUNDS)
    assert measure_bench(checkpoint, prompt_tokens=8, output_tokens=4, threads=1).model == checkpoint.name


def test_sizes_are_checked(layered: Artifact) -> None:
    with pytest.raises(SpecError, match="at least"):
        measure_bench(layered.path, output_tokens=1)
    with pytest.raises(PromptTooLongError, match="128"):
        measure_bench(layered.path, prompt_tokens=128, output_tokens=2)
