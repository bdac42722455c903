"""Round to nearest: the plainest of methods, and what all others are measured against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from penjing.formats.codes import Codes
from penjing.models.statistics import InputStatistics
from penjing.quantize.ranges import PercentileConfig, percentile
from penjing.spec import WeightFormat


@dataclass(frozen=True)
class RtnConfig:
    """Nothing to choose."""


def rtn(
    weight: Tensor,
    statistics: InputStatistics | None,
    format: WeightFormat,
    config: RtnConfig,  # noqa: ARG001 (every method is called alike)
) -> Codes:
    """Nearest codes of a float32 matrix [N, K], each group's largest magnitude setting its scale.

    Statistics are not used. Raises NonFiniteWeightError and FormatError as `search` does.
    """
    return percentile(weight, statistics, format, PercentileConfig(keep=1.0))
