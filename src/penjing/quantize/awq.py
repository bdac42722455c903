"""AWQ (Lin et al. 2024): channels of large inputs get finer steps, by scaling weights up and inputs down.

W x = (W diag(s)) (diag(s)^-1 x), and diag(s)^-1 merges into what makes x: the norm before, or the rows of the
matrix before. s = (mean square of the input)^(alpha / 2), alpha chosen by the error of the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.models.statistics import InputStatistics, check_statistics, gram_errors
from penjing.quantize.search import SearchConfig, search_placement
from penjing.spec import WeightFormat


@dataclass(frozen=True)
class AwqConfig:
    """steps: values of alpha tried in (0, 1], beside 0. search: of the scales that alpha is judged with."""

    steps: int = 10
    search: SearchConfig = field(default_factory=SearchConfig)


def channel_scales(
    weights: Sequence[Tensor], statistics: InputStatistics, format: WeightFormat, config: AwqConfig
) -> Tensor:
    """s, float32 [K], positive, for all matrices [N_i, K] that read one input; ones where nothing helps.

    The caller multiplies columns (`scale_inputs`), divides what makes the input, and takes
    `rescale_statistics` from there on. Raises as `search` does.
    """
    for weight in weights:
        check_statistics(weight, statistics)
    best, least = torch.ones(weights[0].shape[1]), float("inf")
    for step in range(config.steps + 1):
        scales = balanced(statistics.importance, step / config.steps)
        error = sum(scaled_error(weight, statistics, scales, format, config) for weight in weights)
        if error < least:
            best, least = scales, error
    return best


def balanced(importance: Tensor, alpha: float) -> Tensor:
    """importance^(alpha / 2), floored at 1e-4 of the mean and centred so that largest and smallest are
    inverse to each other.
    """
    floor = 1e-4 * float(importance.mean())
    scales = importance.clamp(min=floor if floor > 0 else 1.0) ** (alpha / 2)
    return scales / torch.sqrt(scales.max() * scales.min())


def scaled_error(
    weight: Tensor, statistics: InputStatistics, scales: Tensor, format: WeightFormat, config: AwqConfig
) -> float:
    """Squared output error of a matrix that is rounded with its columns scaled."""
    placement, _ = search_placement(
        scale_inputs(weight, scales), rescale_statistics(statistics, scales), format, config.search
    )
    rounded = placement.values(placement.nearest(scale_inputs(weight, scales))) / scales
    return float(gram_errors(rounded - weight, statistics.gram).double().sum())


def scale_inputs(weight: Tensor, scales: Tensor) -> Tensor:
    """W diag(s)."""
    return weight * scales


def scale_outputs(tensor: Tensor, scales: Tensor) -> Tensor:
    """diag(s)^-1 of what makes the input: a norm [K], or the rows (and bias) of a matrix [K, M]."""
    return tensor / (scales if tensor.ndim == 1 else scales[:, None])


def rescale_statistics(statistics: InputStatistics, scales: Tensor) -> InputStatistics:
    """Statistics of the inputs diag(s)^-1 x, on both paths."""
    product = scales[:, None] * scales
    cross = None if statistics.cross is None else statistics.cross / product
    return InputStatistics(statistics.gram / product, cross, statistics.tokens)
