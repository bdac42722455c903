"""Second moments of a matrix's inputs, added up over chunks of calibration tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.models.statistics import InputStatistics

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
