"""The residual plane of a layered matrix, by a second GPTQ pass against the original weight.

The base plane is a finished 4-bit matrix and stays as it is. What it left over, w - s q, is rounded to steps
of s / 8 with the errors fed back to later columns: both planes together give the outputs of the original.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from penjing.errors import FormatError
from penjing.formats.codes import Codes
from penjing.formats.grids import uniform_grid
from penjing.formats.grouped import RESIDUAL_STEPS
from penjing.models.statistics import InputStatistics
from penjing.quantize.gptq import GptqConfig, feed_back
from penjing.quantize.matrix import Placement, placement_of
from penjing.spec import WeightFormat


def add_residual(base: Codes, target: Tensor, statistics: InputStatistics, config: GptqConfig) -> Codes:
    """A layered matrix over the very bytes of `base`, a symmetric int4 matrix.

    target: what both planes together should be, float32 [N, K]: the original weight, or `corrected_target`.
    statistics: of the inputs on the path of tier `best`. Raises FormatError for another base.
    """
    if base.format.name not in {"int4", "layered"} or base.format.asymmetric:
        raise FormatError(f"a residual plane needs a symmetric int4 base, not {base.format.name}")
    placement, codes = placement_of(base)
    fine = Placement(
        uniform_grid(4, asymmetric=False), placement.group_size, placement.scales / RESIDUAL_STEPS
    )
    residual = feed_back(target - placement.values(codes), statistics, fine, replace(config, reach=None))
    format = WeightFormat(name="layered", group_size=base.format.group_size)
    return replace(base, format=format, residual=residual.numpy().astype(np.uint8))
