"""A layer whose inputs are correlated and of unequal size, and models with some tensors changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import write_checkpoint
from torch import Tensor

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.models import Checkpoint
from penjing.models.statistics import InputStatistics
from penjing.models.torch_model import TorchModel, tensor_of

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (6, 20)))


def random_layer(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, InputStatistics]:
    """A weight float32 [rows, columns], and statistics of 4 x columns tokens."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) + 2 * torch.eye(columns)
    sizes = torch.exp(torch.randn(columns, generator=generator))
    inputs = torch.randn(4 * columns, columns, generator=generator) @ mixing * sizes
    return weight, InputStatistics(inputs.T @ inputs, None, len(inputs))


def loaded(directory: Path, family: dict[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A random model of a family: its shape and float32 tensors by canonical name."""
    checkpoint = Checkpoint.open(write_checkpoint(directory, family))
    names = expected_tensors(checkpoint.config)
    return checkpoint.config, {name: tensor_of(checkpoint.read(name)).float() for name in names}


def logits(config: ModelConfig, tensors: dict[str, Tensor]) -> Tensor:
    """Of TOKENS."""
    return TorchModel(config, tensors.__getitem__, TOKENS.shape[1])(TOKENS)
