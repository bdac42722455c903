"""Small random layers: weights with outliers, inputs that are correlated and of unequal size."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.formats.codes import Codes, dequantize
from penjing.models.statistics import InputStatistics, gram_errors

ROWS, COLUMNS, TOKENS = 24, 160, 600  # two and a half groups of 64


def random_weight(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """Float32 [rows, columns], of heavier tails than a normal distribution's."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, columns, generator=generator)
    return base * (0.02 + 0.02 * torch.rand(rows, columns, generator=generator))


def random_inputs(seed: int = 1, tokens: int = TOKENS, columns: int = COLUMNS) -> Tensor:
    """Float32 [tokens, columns]: a few directions carry most, and some channels are large."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    sizes = torch.exp(torch.randn(columns, generator=generator))
    common = torch.randn(tokens, 4, generator=generator) @ torch.randn(4, columns, generator=generator)
    return (torch.randn(tokens, columns, generator=generator) @ mixing + common) * sizes


def statistics_of(inputs: Tensor, originals: Tensor | None = None) -> InputStatistics:
    """Of inputs on the quantized path, and of the original's to the same tokens."""
    cross = None if originals is None else originals.T @ inputs
    return InputStatistics(inputs.T @ inputs, cross, len(inputs))


def drifted(inputs: Tensor, seed: int = 2) -> Tensor:
    """Inputs after a layer that lost something: a little mixed and a little smaller."""
    generator = torch.Generator().manual_seed(seed)
    columns = inputs.shape[1]
    mixing = 0.9 * torch.eye(columns) + 0.02 * torch.randn(columns, columns, generator=generator)
    return inputs @ mixing


def values_of(codes: Codes) -> Tensor:
    """What codes stand for, float32 [N, K]."""
    return torch.from_numpy(dequantize(codes))


def output_error(codes: Codes, weight: Tensor, statistics: InputStatistics) -> float:
    """Squared error of the outputs over all tokens."""
    return float(gram_errors(values_of(codes) - weight, statistics.gram).sum())


def same_bytes(first: Codes, second: Codes) -> bool:
    """Every part equal, bit for bit."""
    parts = ("codes", "scales", "zeros", "table", "residual")
    pairs = [(getattr(first, part), getattr(second, part)) for part in parts]
    return all((a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes()) for a, b in pairs)
