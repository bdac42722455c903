"""What a model makes of its units on a text, noted where its matrices read them.

A unit is worth the mean magnitude of what is read of it, times the norm of the column of weights that reads
it (Muralidharan et al. 2024); a block 1 - cosine of what enters and what leaves it (Men et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from penjing.models.block import Linear, Weights, linear


def noting(note: Callable[[str, Tensor], None]) -> Linear:
    """How a block's matrices are applied if `note` is to see what each reads: its name, and [tokens, K]."""

    def apply(weights: Weights, name: str, inputs: Tensor) -> Tensor:
        note(name, inputs.flatten(0, -2))
        return linear(weights, name, inputs)

    return apply


class Magnitudes:
    """Sums over tokens of |x| of what every matrix reads, by its name; float64 [K]."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def note(self, name: str, inputs: Tensor) -> None:
        """What a matrix reads, [tokens, K]."""
        self.sums[name] = self.sums.get(name, 0.0) + inputs.abs().double().sum(0)

    def mean(self, name: str, tokens: int) -> Tensor:
        """The mean over so many tokens, float32 [K]."""
        return (self.sums[name] / tokens).float()


def column_norms(*matrices: Tensor) -> Tensor:
    """The norm of each column of matrices [N, K], one below the other; float32 [K]."""
    norms: Tensor = torch.linalg.vector_norm(torch.cat(matrices).float(), dim=0)
    return norms


def turn(before: Tensor, after: Tensor) -> Tensor:
    """1 - cosine of what enters a block and what leaves it, by token."""
    return 1 - functional.cosine_similarity(before, after, dim=-1)
