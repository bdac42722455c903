"""Second moments of a matrix's inputs, added up over chunks of calibration tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.errors import NonFiniteActivationError
from penjing.quantize.methods import Method, StageStatistics
from penjing.quantize.statistics import InputStatistics

PANEL_COLUMNS = 1408  # the Gram is symmetric: panels below the diagonal are copied, not computed


class Moments:
    """Adds up `InputStatistics` of inputs [n, columns].

    cross: whether the original's inputs come as well. Their part is kept as sum (x - x^) x^^T, which is small
    beside the Gram: it is multiplied in `dtype`, bfloat16 say, while the Gram is exact float32, because an
    error in it would be inverted.
    """

    def __init__(self, columns: int, *, cross: bool, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.gram = torch.zeros(columns, columns)
        self.drift = torch.zeros(columns, columns) if cross else None
        self.tokens = 0

    def add(self, inputs: Tensor, originals: Tensor | None) -> None:
        """One chunk: inputs on the quantized path and, for a cross-Gram, the original's."""
        for first in range(0, inputs.shape[1], PANEL_COLUMNS):
            panel = slice(first, first + PANEL_COLUMNS)
            self.gram[panel, first:].addmm_(inputs[:, panel].t(), inputs[:, first:])
        if self.drift is not None and originals is not None:
            self.drift += (originals - inputs).to(self.dtype).t() @ inputs.to(self.dtype)
        self.tokens += len(inputs)

    def result(self) -> InputStatistics:
        """What was gathered; this object is used up."""
        columns = len(self.gram)
        for first in range(PANEL_COLUMNS, columns, PANEL_COLUMNS):
            below = slice(first, first + PANEL_COLUMNS)
            self.gram[below, :first] = self.gram[:first, below].t()
        cross = None if self.drift is None else self.drift.add_(self.gram)
        return InputStatistics(self.gram, cross, self.tokens)


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
