"""Rounding that makes up for what earlier rounding did (GPTAQ, Li et al. 2025; Qronos, Zhang et al. 2025).

The matrix will read x^, inputs that earlier quantized matrices made, and should give what the original gave
for x. The float matrix that does this best over the calibration tokens,

    W* = argmin |W x - W* x^|^2 = W C G^-1,   C = sum x x^^T,  G = sum x^ x^^T,

is what GPTQ then rounds under G. Damping pulls W* to W where the inputs say little.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from penjing.formats.codes import Codes
from penjing.models.factor import feedback_factor
from penjing.models.statistics import InputStatistics, check_statistics
from penjing.quantize.gptq import GptqConfig, feed_back
from penjing.quantize.search import search_placement
from penjing.spec import WeightFormat


@dataclass(frozen=True)
class QronosConfig:
    """damping: of the target, in parts of the Gram's mean diagonal. gptq: how the target is rounded."""

    damping: float = 0.01
    gptq: GptqConfig = field(default_factory=GptqConfig)


def qronos(weight: Tensor, statistics: InputStatistics, format: WeightFormat, config: QronosConfig) -> Codes:
    """`gptq` of the corrected target; plain `gptq` where there is no cross-Gram. Raises likewise."""
    target = corrected_target(weight, statistics, config.damping)
    placement, table = search_placement(target, statistics, format, config.gptq.search)
    codes = feed_back(target, statistics, placement, config.gptq, weight)
    return placement.to_codes(codes, format, table)


def corrected_target(weight: Tensor, statistics: InputStatistics, damping: float) -> Tensor:
    """W* = W (C + lambda I) (G + lambda I)^-1, float32 [N, K]; `weight` itself without a cross-Gram."""
    check_statistics(weight, statistics)
    if statistics.cross is None:
        return weight
    order, factor = feedback_factor(statistics, damping)
    change = weight @ (statistics.cross - statistics.gram)  # W* = W + W (C - G) (G + lambda I)^-1
    moved = torch.empty_like(change)
    moved[:, order] = (change[:, order] @ factor.t()) @ factor
    return weight + moved
