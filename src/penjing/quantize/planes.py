"""From a matrix and its statistics to codes: the base plane in the first pass, the residual in the second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from penjing.errors import DataError, FormatError
from penjing.formats.codes import Codes
from penjing.formats.grids import uniform_grid
from penjing.formats.grouped import RESIDUAL_STEPS
from penjing.quantize.gptq import GptqConfig
from penjing.quantize.layered import add_residual
from penjing.quantize.matrix import Placement, placement_of
from penjing.quantize.methods import METHODS, StageStatistics
from penjing.quantize.qronos import corrected_target
from penjing.quantize.search import SearchConfig, search
from penjing.quantize.state import BlockResult
from penjing.spec import QuantizeStep, WeightFormat


@dataclass(frozen=True, eq=False)
class Rounder:
    """Makes codes of a block's matrices. prefix: of their names in the model. base: the first pass's result,
    to which the second adds residual planes; None in the first pass.
    """

    step: QuantizeStep
    prefix: str
    base: BlockResult | None

    def __call__(
        self, name: str, weight: Tensor, statistics: StageStatistics | None, format: WeightFormat
    ) -> Codes:
        """Codes of a float32 matrix [N, K]; without statistics, by least squared error of the weights.

        Raises FormatError or DataError, naming the matrix.
        """
        with naming(self.prefix + name):
            if self.base is not None:
                base = self.base.codes[name]
                return base if format.name != "layered" else self.with_residual(base, weight, statistics)
            plane = format.model_copy(update={"name": "int4"}) if format.name == "layered" else format
            if statistics is None:
                return search(weight, None, plane, SearchConfig())
            return METHODS[self.step.method].round(weight, statistics, plane, self.step)

    def with_residual(self, base: Codes, weight: Tensor, statistics: StageStatistics | None) -> Codes:
        """A layered matrix over a base plane that stays as it is."""
        if statistics is None:
            return with_nearest_residual(base, weight)
        known, damping = statistics.calibration, self.step.damping
        target = corrected_target(weight, known, damping)
        return add_residual(base, target, known, GptqConfig(damping=damping))


def with_nearest_residual(base: Codes, weight: Tensor) -> Codes:
    """A residual plane of nearest codes."""
    placement, codes = placement_of(base)
    fine = Placement(
        uniform_grid(4, asymmetric=False), placement.group_size, placement.scales / RESIDUAL_STEPS
    )
    residual = fine.nearest(weight - placement.values(codes)).numpy().astype(np.uint8)
    layered = WeightFormat(name="layered", group_size=base.format.group_size)
    return replace(base, format=layered, residual=residual)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say which matrix an error is about."""
    try:
        yield
    except (DataError, FormatError) as error:
        raise type(error)(f"{name}: {error}") from None
