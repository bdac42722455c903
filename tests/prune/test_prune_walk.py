"""Every matrix of every family is pruned, for the inputs that pruned blocks before it leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import (
    GEMMA3,
    LLAMA,
    MISTRAL,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    random_tensors,
    write_checkpoint,
)
from pruning_samples import TOKENS

from penjing.artifact.config import expected_tensors
from penjing.errors import DataError, NonFiniteWeightError
from penjing.models import Checkpoint
from penjing.models.statistics import InputStatistics
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.prune import keep_largest
from penjing.prune.patterns import Sparsity
from penjing.prune.walk import METHODS, UnstructuredPruning, prune_checkpoint
from penjing.prune.wanda import wanda

FAMILIES = [LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, PHI3, GEMMA3]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family["model_type"])
@pytest.mark.parametrize("method", METHODS)
def test_every_matrix_of_the_blocks_is_pruned(tmp_path: Path, family: dict[str, Any], method: Any) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, family))
    config = UnstructuredPruning(method=method, sparsity=Sparsity.of("2:4"))
    pruned = dict(prune_checkpoint(checkpoint, TOKENS, config))
    roles = expected_tensors(checkpoint.config)
    matrices = [name for name, role in roles.items() if role.is_matrix and not role.keeps_dtype]
    assert list(pruned) == [name for name in matrices if name.startswith("blocks.")]
    for name, matrix in pruned.items():
        assert matrix.shape == roles[name].shape
        kept = (matrix != 0).view(matrix.shape[0], -1, 4).sum(-1)
        assert torch.equal(kept, torch.full_like(kept, 2)), name


def test_inputs_come_from_blocks_that_are_pruned_already(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, LLAMA))
    tensors = {name: tensor_of(checkpoint.read(name)) for name in expected_tensors(checkpoint.config)}
    config = UnstructuredPruning(method="wanda", sparsity=Sparsity(keep=0.4))
    pruned = dict(prune_checkpoint(checkpoint, TOKENS, config))
    first = {name: matrix for name, matrix in pruned.items() if name.startswith("blocks.0.")}
    for before, same in ((tensors | first, True), (tensors, False)):
        model = TorchModel(checkpoint.config, before.__getitem__, TOKENS.shape[1])
        hidden = model.block(0)(model.block_weights(0), model.embed(TOKENS))
        inputs = model.block(1).attention_input(model.block_weights(1), hidden).flatten(0, 1)
        statistics = InputStatistics(inputs.T @ inputs, None, len(inputs))
        expected = wanda(tensors["blocks.1.value"], statistics, config.sparsity)
        assert torch.equal(pruned["blocks.1.value"], expected) is same


def test_magnitude_compares_the_whole_matrix(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, LLAMA))
    config = UnstructuredPruning(method="magnitude", sparsity=Sparsity(keep=0.3))
    weight = checkpoint.read("blocks.1.down")
    pruned = dict(prune_checkpoint(checkpoint, TOKENS, config))["blocks.1.down"]
    assert np.array_equal(pruned.numpy(), keep_largest(weight, round(0.3 * weight.size)))


@pytest.mark.parametrize(("value", "error"), [(np.nan, NonFiniteWeightError), (1e30, DataError)])
def test_what_is_not_finite_is_refused(tmp_path: Path, value: float, error: type[Exception]) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = value
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, tensors=tensors))
    with pytest.raises(error, match="NaN or Inf"):
        list(prune_checkpoint(checkpoint, TOKENS, UnstructuredPruning()))
