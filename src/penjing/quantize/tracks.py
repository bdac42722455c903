"""One version of the model, original or quantized, on its way through the blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from penjing.models.block import Block
from penjing.models.torch_model import TorchModel
from penjing.quantize.streams import Stream

CHUNK_TOKENS = 2048  # run through a matrix at a time


@dataclass(frozen=True)
class Chunk:
    """Sequences first .. last - 1; held: of the text held apart."""

    first: int
    last: int
    held: bool


@dataclass(eq=False)
class Track:
    """hidden: states before the present block, float32. weights: of the present block, by names inside it, as
    far as this version has them.
    """

    hidden: Stream
    weights: dict[str, Tensor] = field(default_factory=dict)

    def advance(self, block: Block, chunks: list[Chunk]) -> None:
        """Run the whole block, whose weights are all there."""
        for chunk in chunks:
            self.hidden.write(chunk.first, block(self.weights, self.hidden.read(chunk.first, chunk.last)))

    def update(self, chunk: Chunk, change: Callable[[Tensor], Tensor]) -> None:
        """Replace a chunk's hidden states."""
        self.hidden.write(chunk.first, change(self.hidden.read(chunk.first, chunk.last)))


def begin_track(model: TorchModel, tokens: Tensor, chunks: list[Chunk], directory: Path | None) -> Track:
    """A track before the first block."""
    count, length = tokens.shape
    hidden = Stream(count, length, model.config.hidden_size, torch.float32, directory)
    embedding = model.read("embedding")
    once = replace(model, read=lambda _: embedding)
    for chunk in chunks:
        hidden.write(chunk.first, once.embed(tokens[chunk.first : chunk.last]))
    return Track(hidden)


def cut_chunks(count: int, length: int, num_held: int) -> list[Chunk]:
    """Chunks of about CHUNK_TOKENS tokens; the last `num_held` sequences, held apart, have their own."""
    step, found = max(1, CHUNK_TOKENS // length), []
    for begin, end, held in ((0, count - num_held, False), (count - num_held, count, True)):
        found += [Chunk(first, min(first + step, end), held) for first in range(begin, end, step)]
    return found


def compute_dtype(hidden_size: int) -> torch.dtype:
    """What matrices multiply in while activations are gathered.

    bfloat16 is two to three times as fast where matrices are large, and its rounding, of every product's
    inputs, is far below that of any format; small models are run exactly.
    """
    return torch.bfloat16 if hidden_size >= 1024 else torch.float32
