"""A whole model in torch, one block's weights at a time: token ids to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from penjing.artifact.config import ModelConfig, block_tensors
from penjing.models.block import Block, Linear, linear, rotation


@dataclass(frozen=True, eq=False)
class TorchModel:
    """A model whose tensors `read` gives by canonical name.

    Matrices may be of any float dtype; vectors are float32. Nothing is kept between calls, so that memory is
    that of one block, unless `read` keeps it. length: the most positions of a sequence. linear: see `Block`.
    """

    config: ModelConfig
    read: Callable[[str], Tensor]
    length: int
    linear: Linear = linear

    @cached_property
    def rotations(self) -> list[Tensor]:
        """The rotary embeddings that blocks choose among."""
        return [rotation(rope, self.config.head_dim, self.length) for rope in self.config.ropes]

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 [sequences, length] to the first block's hidden states, float32 [..., hidden]."""
        return functional.embedding(tokens, self.read("embedding")).float() * self.config.embedding_scale

    def block(self, index: int) -> Block:
        """How block `index` computes."""
        block = self.config.blocks[index]
        return Block(self.config, block, self.rotations[self.config.rope_index(block)], self.linear)

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """The tensors of a block, by their names inside it."""
        names = block_tensors(self.config, self.config.blocks[index])
        return {name: self.read(f"blocks.{index}.{name}") for name in names}

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states after the last block to logits, float32 [..., vocabulary]."""
        normed = self.block(0).norm(self.read("final_norm"), hidden)
        name = "embedding" if self.config.tied_head else "head"
        return self.capped(self.linear({name: self.read(name)}, name, normed))

    def capped(self, logits: Tensor) -> Tensor:
        """Logits under the model's soft cap, if it has one."""
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits float32 [sequences, length, vocabulary] of token ids int64 [sequences, length]."""
        hidden = self.embed(tokens)
        for index in range(len(self.config.blocks)):
            hidden = self.block(index)(self.block_weights(index), hidden)
        return self.logits(hidden)


def tensor_of(array: NDArray[Any]) -> Tensor:
    """A copy of a float32, float16 or bfloat16 (ml_dtypes) array in torch's own memory, which is aligned:
    matrix products take other paths, with other roundings, where it is not."""
    if array.dtype.itemsize == 2 and array.dtype != np.float16:
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16).clone()
    return torch.from_numpy(np.ascontiguousarray(array)).clone()
