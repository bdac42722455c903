"""All that a method asks about the inputs of a matrix, gathered over chunks of calibration tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.errors import NonFiniteActivationError
from penjing.models.moments import Moments
from penjing.quantize.methods import Method, StageStatistics


class Gathering:
    """All that a method wants to know of one input. place: what reads it, for errors."""

    def __init__(self, columns: int, method: Method, dtype: torch.dtype, place: str) -> None:
        self.place = place
        self.calibration = Moments(columns, cross=method.cross, dtype=dtype)
        self.held = Moments(columns, cross=method.cross, dtype=dtype) if method.held else None
        self.largest = torch.zeros(columns) if method.largest else None

    def add(self, inputs: Tensor, originals: Tensor | None, *, held: bool) -> None:
        """One chunk [..., columns]; `held`: it is of the text held apart, for methods that hold some."""
        inputs = inputs.flatten(0, -2)
        if not len(inputs):
            return
        if not bool(torch.isfinite(inputs).all()):
            raise NonFiniteActivationError(
                f"{self.place}: NaN or Inf among its inputs on the calibration text; "
                "the checkpoint is damaged, or computes beyond float32"
            )
        if self.largest is not None:
            self.largest = torch.maximum(self.largest, inputs.abs().amax(0))
        moments = self.held if held and self.held is not None else self.calibration
        moments.add(inputs, None if originals is None else originals.flatten(0, -2))

    def result(self) -> StageStatistics:
        """What was gathered; held-apart text that nothing came of judges nothing."""
        held = self.held.result() if self.held is not None and self.held.tokens else None
        return StageStatistics(self.calibration.result(), held, self.largest)
