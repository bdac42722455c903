"""Axes against the tensors that families have, and what is noted of a block against its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import GEMMA3, LLAMA, PHI3, QWEN2, QWEN3_MOE, write_checkpoint

from penjing.artifact.config import block_tensors
from penjing.models import Checkpoint
from penjing.models.axes import axes_of, scaled_norm, select
from penjing.models.importance import Magnitudes, column_norms, noting, turn
from penjing.models.torch_model import TorchModel, tensor_of


@pytest.mark.parametrize("published", [LLAMA, QWEN2, GEMMA3, PHI3, QWEN3_MOE], ids=lambda p: p["model_type"])
def test_every_tensor_has_its_axes(published: dict[str, Any], tmp_path: Path) -> None:
    config = Checkpoint.open(write_checkpoint(tmp_path / "model", published)).config
    for block in config.blocks:
        sizes = {
            "hidden": config.hidden_size,
            "query": block.num_heads * config.head_dim,
            "key": block.num_kv_heads * config.head_dim,
            "head": config.head_dim,
            "expert": block.num_experts,
        }
        for name, role in block_tensors(config, block).items():
            axes = axes_of(name)
            assert [sizes.get(axis, block.intermediate_size) for axis in axes] == list(role.shape), name
    assert axes_of("experts.3.down") == ("hidden", "experts.3.inner")


def test_selected_by_axis() -> None:
    weight = torch.arange(12.0).view(3, 4)
    chosen = {"hidden": torch.tensor([2, 0]), "inner": torch.tensor([1])}
    assert select(weight, "gate", chosen).tolist() == [[6.0, 4.0]]
    assert select(weight, "query", {"inner": torch.tensor([0])}) is weight


def test_norms_scaled_and_divided_round_once() -> None:
    weight, scales = torch.randn(100), torch.rand(100) + 0.5
    assert torch.equal(scaled_norm(weight, 1.0, by=scales), (weight + 1.0) / scales - 1.0)
    assert torch.equal(scaled_norm(weight, 0.0, times=scales), weight * scales)


def test_what_matrices_read_is_noted(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model", LLAMA))
    model = TorchModel(checkpoint.config, lambda name: tensor_of(checkpoint.read(name)), 12)
    plain, weights = model.block(0), model.block_weights(0)
    hidden = model.embed(torch.arange(24).view(2, 12))
    read = Magnitudes()
    noted = TorchModel(model.config, model.read, 12, noting(read.note)).block(0)(weights, hidden)
    assert torch.equal(noted, plain(weights, hidden))
    inputs = plain.attention_input(weights, hidden)
    for name in ("query", "key", "value"):
        assert torch.allclose(read.mean(name, 24), inputs.abs().mean((0, 1)), rtol=1e-5)
    assert set(read.sums) == {"query", "key", "value", "output", "gate", "up", "down"}
    assert torch.allclose(turn(hidden, 3 * hidden), torch.zeros(2, 12), atol=1e-5)
    assert column_norms(torch.tensor([[3.0, 0]]), torch.tensor([[4.0, 1]])).tolist() == [5, 1]
