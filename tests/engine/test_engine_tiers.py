"""Norms and biases that differ between the tiers of one artifact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from engine_models import RandomWeights, pages_of, run_whole, small_config
from numpy.typing import NDArray

from penjing.engine.runner import CpuRunner
from penjing.engine.step import StepSequence
from penjing.spec import Tier, WeightFormat

NUM_TOKENS = 90  # enough to be cut into chunks of rows
LAYERED = WeightFormat(name="layered", group_size=32)


@dataclass
class TunedWeights(RandomWeights):
    """Every vector has other values at the best tier; `only` gives both tiers the values of one."""

    only: Tier | None = None

    def vector(self, name: str, tier: Tier) -> NDArray[np.float32]:
        values = super().vector(name, tier)
        return values if (self.only or tier) == "fast" else values * np.float32(1.25) + np.float32(0.05)


def runner_of(only: Tier | None) -> CpuRunner:
    runner = CpuRunner(TunedWeights(small_config(), LAYERED, only=only), threads=2)
    runner.allocate(2 * pages_of(NUM_TOKENS))
    return runner


@pytest.mark.parametrize("chunk", [1, NUM_TOKENS])
def test_each_tier_runs_with_its_own_vectors(chunk: int) -> None:
    tokens = np.random.default_rng(3).integers(0, 101, NUM_TOKENS).astype(np.int32)
    pages = np.arange(pages_of(NUM_TOKENS), dtype=np.int32)
    both = runner_of(None)
    answers = {tier: run_whole(both, tokens, pages, chunk, tier) for tier in ("fast", "best")}
    for tier in ("fast", "best"):
        assert np.array_equal(answers[tier], run_whole(runner_of(tier), tokens, pages, chunk, tier))
    other = run_whole(runner_of("fast"), tokens, pages, chunk, "best")
    assert not np.array_equal(answers["best"], other), "the vectors of the other tier must matter"


def test_tiers_share_a_step() -> None:
    tokens = np.random.default_rng(4).integers(0, 101, NUM_TOKENS).astype(np.int32)
    pages = np.arange(2 * pages_of(NUM_TOKENS), dtype=np.int32).reshape(2, -1)
    wanted = np.arange(NUM_TOKENS, dtype=np.int32)
    runner = runner_of(None)
    alone = [run_whole(runner, tokens, pages[0], tier=tier) for tier in ("best", "fast")]
    step = [StepSequence(tokens, 0, pages[i], wanted, tier) for i, tier in enumerate(("best", "fast"))]
    assert np.array_equal(runner.step(step), np.concatenate(alone))
