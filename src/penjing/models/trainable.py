"""A checkpoint as a torch module: what is trained, pruned, distilled and transferred."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.errors import CheckpointShapeError
from penjing.models.checkpoint import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of


class TrainableModel(nn.Module):
    """A causal language model whose parameters are the tensors of `expected_tensors`, float32.

    tensors: by canonical name, copied. length: the most positions of a sequence. dropout: the chance with
    which an output of attention or feed-forward is dropped before it joins the residual stream, while
    training. Raises CheckpointShapeError for a tensor that is missing, one too many, or of another shape.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Tensor], length: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        roles = expected_tensors(config)
        if unknown := sorted(set(tensors) ^ set(roles)):
            raise CheckpointShapeError(f"tensors and configuration disagree about {', '.join(unknown[:3])}")
        for name, role in roles.items():
            if tuple(tensors[name].shape) != role.shape:
                raise CheckpointShapeError(
                    f"{name} is {list(tensors[name].shape)}, and the configuration says {list(role.shape)}"
                )
        # A module of its own, so that optimizers know it from a hidden matrix.
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding.weight = nn.Parameter(tensors["embedding"].detach().clone().float())
        self.inner = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(tensors[name].detach().clone().float())
                for name in roles
                if name != "embedding"
            }
        )
        self.model = TorchModel(config, self.tensor, length)

    @classmethod
    def of(cls, checkpoint: Checkpoint, length: int, dropout: float = 0.0) -> TrainableModel:
        """The model of a checkpoint."""
        names = expected_tensors(checkpoint.config)
        tensors = {name: tensor_of(checkpoint.read(name)) for name in names}
        return cls(checkpoint.config, tensors, length, dropout)

    def tensor(self, name: str) -> Tensor:
        """A parameter by its canonical name."""
        if name == "embedding":
            return self.embedding.weight
        parameter: Tensor = self.inner[name.replace(".", "/")]
        return parameter

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter by its canonical name, in the order of execution."""
        return {name: self.tensor(name) for name in expected_tensors(self.config)}

    def hidden_states(self, tokens: Tensor) -> list[Tensor]:
        """The residual stream before the first block and after each, float32 [sequences, length, hidden]."""
        states = [self.model.embed(tokens)]
        for index in range(len(self.config.blocks)):
            states.append(self.after_block(index, states[-1]))
        return states

    def after_block(self, index: int, hidden: Tensor) -> Tensor:
        """The residual stream after a block. What stands here as an attribute is what runs, so that a wrapper
        may recompute it (training.activations).
        """
        block, weights = self.model.block(index), self.model.block_weights(index)
        attended = block.attention(weights, block.attention_input(weights, hidden))
        hidden = self.joined(hidden, block.after_attention(weights, hidden, attended))
        outputs = block.feed_forward(weights, block.feed_forward_input(weights, hidden))
        return self.joined(hidden, block.after_feed_forward(weights, hidden, outputs))

    def joined(self, before: Tensor, after: Tensor) -> Tensor:
        """The residual stream after a branch, part of which is dropped while training."""
        if not (self.training and self.dropout):
            return after
        return before + functional.dropout(after - before, self.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits float32 [sequences, length, vocabulary] of token ids int64 [sequences, length]."""
        return self.model.logits(self.hidden_states(tokens)[-1])


def random_model(config: ModelConfig, length: int, seed: int = 0, dropout: float = 0.0) -> TrainableModel:
    """A model before any training: matrices normal with deviation 0.02, those that end a branch smaller by
    the root of twice the depth (Radford et al. 2019); norms 1 with their offset, biases 0.
    """
    generator = torch.Generator().manual_seed(seed)
    shrink = (2 * len(config.blocks)) ** -0.5
    tensors = {}
    for name, role in expected_tensors(config).items():
        if role.is_matrix:
            deviation = 0.02 * (shrink if name.endswith((".output", ".down")) else 1.0)
            tensors[name] = torch.randn(role.shape, generator=generator) * deviation
        else:
            tensors[name] = torch.full(role.shape, 1.0 - config.norm_offset if "norm" in name else 0.0)
    return TrainableModel(config, tensors, length, dropout)
