"""Bounds on how far training may go: a ball around the weights where it began, and the length of a step.

Ascent has no bottom to come to rest at; with a trust radius it is a question with an answer, the highest
objective within reach. Projected gradient steps: the nearest point of the ball is on the way to its centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import SpecError
from penjing.training.ranks import Ranks


@dataclass(frozen=True)
class Bounds:
    """Euclidean lengths over all trainable parameters together; None: no bound.

    `radius` of the ball around the initial weights, never left (as measured in float64 from the stored
    weights); `step_length` of one optimizer step, kept to rounding.
    """

    radius: float | None = None
    step_length: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("radius", self.radius), ("step_length", self.step_length)):
            if limit is not None and not (limit > 0 and math.isfinite(limit)):
                raise SpecError(f"{name} is {limit}: a bound must be a positive number, or None")


@torch.no_grad()
def confine(parameters: Sequence[Tensor], centre: Sequence[Tensor], limit: float, ranks: Ranks) -> None:
    """Move `parameters` in place to the nearest point at most `limit` from `centre`, both of equal shapes.

    A projected point may round to one that lies outside again; each further try aims lower, twice as far.
    """
    margin = 2.0**-24
    while True:
        moved = [parameter - origin for parameter, origin in zip(parameters, centre, strict=True)]
        length = math.sqrt(ranks.sum_of_squares(moved))
        if length <= limit:
            return
        factor = limit / length * max(0.0, 1.0 - margin)
        for parameter, origin, difference in zip(parameters, centre, moved, strict=True):
            parameter.copy_(origin + factor * difference)
        margin *= 2
