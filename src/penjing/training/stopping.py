"""When to stop: an evaluation is better only where its gain is more than its own noise.

Held-out losses of two versions of one model go up and down together from document to document. Their
difference is far less noisy than either mean, and one standard error of that difference is the least gain
that counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from penjing.errors import SpecError
from penjing.training.state import Run


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` evaluations in a row without a gain on the best; restore the best weights.

    The mean gain must exceed `min_delta` and, where evaluations give a loss for each document or batch,
    `standard_errors` times the standard error of the mean paired difference.
    """

    patience: int
    min_delta: float = 0.0
    standard_errors: float = 1.0

    def __post_init__(self) -> None:
        if self.patience < 1 or self.min_delta < 0 or self.standard_errors < 0:
            raise SpecError("patience must be at least 1, min_delta and standard_errors must not be negative")

    def is_better(self, losses: Sequence[float], best: Sequence[float], maximize: bool) -> bool:
        """Whether `losses` are a gain on `best`, pair by pair. Raises SpecError for unequal numbers."""
        if len(losses) != len(best):
            raise SpecError(
                f"an evaluation has {len(losses)} losses, one before it {len(best)}: give the same"
            )
        gains = [
            after - before if maximize else before - after for after, before in zip(losses, best, strict=True)
        ]
        mean = sum(gains) / len(gains)
        return mean > self.min_delta and mean > self.standard_errors * standard_error(gains)


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 for a single one, about which nothing is known."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def judge(run: Run, stopping: EarlyStopping | None, maximize: bool, losses: Sequence[float]) -> float:
    """Record one evaluation and return its mean; keep the best weights, count evaluations without a gain."""
    progress, mean = run.progress, sum(losses) / len(losses)
    progress.heldout_curve.append((progress.step, mean))
    if stopping is None:
        return mean
    if progress.best_losses is None or stopping.is_better(losses, progress.best_losses, maximize):
        progress.best_losses, progress.best_step, progress.num_bad_evaluations = (
            list(losses),
            progress.step,
            0,
        )
        run.best_weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        return mean
    progress.num_bad_evaluations += 1
    progress.stopped_early = progress.num_bad_evaluations >= stopping.patience
    return mean
