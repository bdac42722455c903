"""Learning-rate schedules: the factor on the base rate at a step.

A schedule is a function of the step and the planned number of steps, never of history. So a run that is
extended, or cut short and annealed, resumes from its state with another `num_steps` and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from penjing.errors import SpecError


@dataclass(frozen=True)
class Schedule:
    """`shape` names a row of SCHEDULES; warm-up is linear over `warmup_steps` for each of them.

    `decay_steps` is the length of the final linear descent of the trapezoid; other shapes do not use it.
    """

    shape: str = "constant"
    warmup_steps: int = 0
    decay_steps: int = 0

    def __post_init__(self) -> None:
        if self.shape not in SCHEDULES:
            raise SpecError(f"unknown schedule {self.shape!r}: choose one of {', '.join(SCHEDULES)}")
        if self.warmup_steps < 0 or self.decay_steps < 0:
            raise SpecError("warmup_steps and decay_steps must not be negative")

    def factor(self, step: int, num_steps: int) -> float:
        """The factor in [0, 1] on the base learning rate at `step`, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warmup * SCHEDULES[self.shape](self, step, num_steps)


def constant(_schedule: Schedule, _step: int, _num_steps: int) -> float:
    """The base rate throughout."""
    return 1.0


def cosine(schedule: Schedule, step: int, num_steps: int) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, 2017), after the warm-up."""
    progress = (step - schedule.warmup_steps) / max(1, num_steps - schedule.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))


def trapezoid(schedule: Schedule, step: int, num_steps: int) -> float:
    """Constant, then linear to zero over the last `decay_steps` (Hägele et al., 2024; also called WSD)."""
    return min(1.0, max(0, num_steps - step) / schedule.decay_steps) if schedule.decay_steps else 1.0


SCHEDULES: dict[str, Callable[[Schedule, int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "trapezoid": trapezoid,
}
