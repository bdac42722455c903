"""Predicted losses against the divergence that the rounded model really has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import GEMMA3, LLAMA, QWEN2, QWEN3_MOE, write_checkpoint
from numpy.typing import NDArray

from penjing.formats import decode, encode
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.quantize.rounding_losses import RoundingLosses
from penjing.spec import WeightFormat

FORMATS = {"int6": WeightFormat(name="int6", group_size=32), "int4": WeightFormat(name="int4", group_size=32)}


def measured(
    checkpoint: Checkpoint, matrices: tuple[str, ...], tokens: NDArray[np.int64], format: WeightFormat
) -> float:
    """KL to the original, nats a token, with these matrices rounded."""

    def rounded(name: str) -> torch.Tensor:
        weight = checkpoint.read(name)
        return torch.from_numpy(decode(encode(weight, format, "search", name)))

    def read(name: str) -> torch.Tensor:
        return rounded(name) if name in matrices else tensor_of(checkpoint.read(name)).float()

    def plain(name: str) -> torch.Tensor:
        return tensor_of(checkpoint.read(name)).float()

    inputs, length = torch.from_numpy(tokens), tokens.shape[1]
    with torch.inference_mode():
        first = TorchModel(checkpoint.config, plain, length)(inputs).log_softmax(-1)
        second = TorchModel(checkpoint.config, read, length)(inputs).log_softmax(-1)
    return float((first.exp() * (first - second)).sum(-1).mean())


@pytest.mark.parametrize("family", [LLAMA, QWEN2, GEMMA3, QWEN3_MOE], ids=lambda family: family["model_type"])
def test_predictions_are_close_to_what_is_measured(family: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "model", family))
    tokens = np.random.Generator(np.random.PCG64(0)).integers(0, 50, (16, 24))
    if family is QWEN3_MOE:  # after the last router: elsewhere rounding sends tokens to other experts
        groups = {"blocks.2.experts.down": tuple(f"blocks.2.experts.{index}.down" for index in range(6))}
    else:
        groups = {
            "blocks.0.query+key+value": ("blocks.0.query", "blocks.0.key", "blocks.0.value"),
            "blocks.1.down": ("blocks.1.down",),
            "embedding": ("embedding",),
        }
    if not checkpoint.config.tied_head:
        groups["head"] = ("head",)
    losses = RoundingLosses(
        checkpoint.config, checkpoint.read, tokens, draws=8, seed=0, directory=tmp_path
    ).by_group(groups, FORMATS)
    found = dict(losses)
    assert set(found) == set(groups)
    for name, matrices in groups.items():
        real = measured(checkpoint, matrices, tokens, FORMATS["int6"])
        assert found[name]["int6"] == pytest.approx(real, rel=0.35)
        assert found[name]["int4"] > 4 * found[name]["int6"]
