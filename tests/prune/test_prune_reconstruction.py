"""Least squares against torch's own, and what it is for: outputs that survive removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import GEMMA3, LLAMA, MISTRAL, PHI3, QWEN2, QWEN3
from pruning_samples import TOKENS, loaded, logits, random_layer

from penjing.models.statistics import InputStatistics, gram_errors
from penjing.prune import reconstruction
from penjing.prune.plan import BlockPlan, Plan, Shrinking, block_parameters
from penjing.prune.reconstruction import fold
from penjing.prune.structured import StructuredPruning, apply_plan, prune_structured


def test_it_is_the_least_squares_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-9)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(90, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    weight, kept = torch.randn(5, 12, generator=generator), torch.tensor([0, 3, 4, 7, 8, 11])
    folded = fold(weight, InputStatistics(inputs.T @ inputs, None, 90), kept)
    expected = torch.linalg.lstsq(inputs[:, kept].double(), (inputs @ weight.T).double()).solution.T
    assert (folded[:, kept] - expected).abs().max() < 1e-3
    assert float(folded.abs().sum()) == pytest.approx(float(folded[:, kept].abs().sum()))


def test_damping_pulls_towards_the_weights_and_not_towards_zero() -> None:
    weight, statistics = random_layer(5, 12)
    kept = torch.arange(0, 12, 2)
    everything = fold(weight, statistics, torch.arange(12))
    assert torch.equal(everything, weight)
    silent = statistics.gram.clone()
    silent[1::2], silent[:, 1::2] = 0, 0
    assert torch.equal(fold(weight, InputStatistics(silent, None, 48), kept)[:, kept], weight[:, kept])


def test_outputs_lose_less_than_by_removal_alone() -> None:
    weight, statistics = random_layer(32, 64)
    kept = torch.arange(48)
    folded = fold(weight, statistics, kept)
    removed = torch.where(torch.arange(64) < 48, weight, 0.0)
    error, plain = (gram_errors(done - weight, statistics.gram).sum() for done in (folded, removed))
    assert error < 0.7 * plain


def test_a_channel_that_another_one_repeats_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-7)
    config, tensors = loaded(tmp_path, LLAMA)
    for index in range(2):
        for name in ("gate", "up"):
            tensors[f"blocks.{index}.{name}"][50:] = tensors[f"blocks.{index}.{name}"][:50]
    blocks = tuple(BlockPlan(index, (0, 1), tuple(range(50))) for index in range(2))
    plan, original = Plan(tuple(range(48)), blocks), logits(config, tensors)
    folded = logits(*apply_plan(config, tensors, plan, TOKENS))
    plain = logits(*apply_plan(config, tensors, plan, None))
    assert (folded - original).abs().max() < 1e-2 * original.abs().max()
    assert (plain - original).abs().max() > 1e-1 * original.abs().max()


@pytest.mark.parametrize(
    "family", [LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA3], ids=lambda family: family["model_type"]
)
def test_every_family_shrinks_by_what_was_asked_for(tmp_path: Path, family: dict[str, Any]) -> None:
    config, tensors = loaded(tmp_path, family)
    shrinking = Shrinking(axes=("groups", "channels", "hidden"), multiple=4)
    pruning = StructuredPruning(fraction=0.5, shrinking=shrinking)
    smaller, left = prune_structured(config, tensors, TOKENS, pruning)
    parameters = block_parameters(smaller) / block_parameters(config)
    assert 0.3 < parameters <= 0.5
    assert bool(torch.isfinite(logits(smaller, left)).all())
