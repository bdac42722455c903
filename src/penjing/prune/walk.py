"""Unstructured pruning of a whole checkpoint, block by block, each for the inputs that it will really get."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from penjing.artifact.config import block_tensors
from penjing.errors import NonFiniteWeightError
from penjing.models.block import Block, Weights
from penjing.models.checkpoint import Checkpoint
from penjing.models.importance import noting
from penjing.models.moments import Moments
from penjing.models.statistics import InputStatistics
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.prune.magnitude import keep_largest
from penjing.prune.patterns import Sparsity, keep_mask
from penjing.prune.sparsegpt import sparsegpt
from penjing.prune.wanda import wanda
from penjing.spec import Spec

CHUNK_TOKENS = 2048  # run through a block at a time
SAME_INPUT = {"key": "query", "value": "query", "up": "gate"}  # matrices that read what another one reads

PruneMatrix = Callable[[Tensor, InputStatistics, Sparsity], Tensor]


class UnstructuredPruning(Spec):
    """method: how weights are chosen; the names are those of METHODS. sparsity: how many stay."""

    method: Literal["magnitude", "wanda", "sparsegpt"] = "sparsegpt"
    sparsity: Sparsity = Sparsity()


def magnitude(weight: Tensor, _: InputStatistics, sparsity: Sparsity) -> Tensor:
    """The largest weights of the whole matrix stay, or those of every group."""
    if sparsity.group is not None:
        return torch.where(keep_mask(weight.abs(), sparsity), weight, 0.0)
    kept: Tensor = keep_largest(weight, round(sparsity.keep * weight.numel()))
    return kept


METHODS: dict[str, PruneMatrix] = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt}


def prune_checkpoint(
    checkpoint: Checkpoint, tokens: Tensor, config: UnstructuredPruning
) -> Iterator[tuple[str, Tensor]]:
    """Every matrix of the blocks by canonical name, pruned, float32, in the order of execution.

    tokens: int64 [sequences, length] to calibrate on. Embedding, head, routers and vectors are left alone.
    Memory is one block, the Gram matrices of its inputs, and the tokens' hidden states. Inputs come from
    blocks that are pruned already. Raises NonFiniteWeightError, and DataError for activations of NaN or Inf.
    """
    model = TorchModel(checkpoint.config, lambda name: tensor_of(checkpoint.read(name)), tokens.shape[1])
    hidden = embedded(model, tokens)
    for index, block_config in enumerate(model.config.blocks):
        block, weights = model.block(index), float_weights(model, index)
        inputs = Inputs()
        for chunk in hidden:
            replace(block, linear=noting(inputs.note))(weights, chunk)
        for name, role in block_tensors(model.config, block_config).items():
            if role.is_matrix and not role.keeps_dtype:
                statistics = inputs.statistics(name, role.shape[1])
                weights[name] = METHODS[config.method](weights[name], statistics, config.sparsity)
                yield f"blocks.{index}.{name}", weights[name]
        advance(block, weights, hidden)


def embedded(model: TorchModel, tokens: Tensor) -> list[Tensor]:
    """Hidden states before the first block, in chunks float32 [sequences, length, hidden]."""
    embedding = model.read("embedding")
    once = replace(model, read=lambda _: embedding)
    return [once.embed(chunk) for chunk in torch.split(tokens, max(1, CHUNK_TOKENS // tokens.shape[1]))]


def float_weights(model: TorchModel, index: int) -> dict[str, Tensor]:
    """A block's tensors in float32. Raises NonFiniteWeightError."""
    weights = {name: tensor.float() for name, tensor in model.block_weights(index).items()}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteWeightError(f"blocks.{index}.{name}: NaN or Inf; the checkpoint is damaged")
    return weights


def advance(block: Block, weights: Weights, hidden: list[Tensor]) -> None:
    """Replace hidden states before a block by those after it, chunk by chunk."""
    for place, chunk in enumerate(hidden):
        hidden[place] = block(weights, chunk)


@dataclass(eq=False)
class Inputs:
    """Moments of what every matrix of a block reads; of an input that several read, only once."""

    moments: dict[str, Moments] = field(default_factory=dict)
    gathered: dict[str, InputStatistics] = field(default_factory=dict)

    def note(self, name: str, inputs: Tensor) -> None:
        """What a matrix reads, [tokens, K]."""
        if name == reader(name):
            if name not in self.moments:
                self.moments[name] = Moments(inputs.shape[-1], cross=False, dtype=torch.float32)
            self.moments[name].add(inputs, None)

    def statistics(self, name: str, columns: int) -> InputStatistics:
        """What was gathered for a matrix; zeros for that of an expert that no token went to."""
        first = reader(name)
        if first not in self.gathered:
            moments = self.moments.pop(first, None) or Moments(columns, cross=False, dtype=torch.float32)
            self.gathered[first] = moments.result()
        return self.gathered[first]


def reader(name: str) -> str:
    """The matrix under whose name the inputs of `name` are gathered."""
    place, dot, last = name.rpartition(".")
    return place + dot + SAME_INPUT.get(last, last)
