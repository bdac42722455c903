"""K-fold cross-validation, grouped by document: which setting does best on documents it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.data.splits import folds_of
from penjing.errors import SpecError
from penjing.training.loop import Task, TrainingConfig, heldout_losses, train
from penjing.training.stopping import standard_error

Setting = TypeVar("Setting")
Batch = TypeVar("Batch")
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """The mean held-out loss over the folds, its standard error, and the loss of each fold."""

    mean: float
    standard_error: float
    fold_losses: tuple[float, ...]


@dataclass(frozen=True)
class CrossValidation:
    """A score for each candidate by name, and the name of the best."""

    scores: Mapping[str, Score]
    chosen: str


def cross_validate(
    groups: Sequence[str],
    candidates: Mapping[str, Setting],
    build: Callable[[Setting, Indices, Indices], tuple[Task[Batch], TrainingConfig]],
    *,
    num_folds: int = 5,
    seed: int = 0,
) -> CrossValidation:
    """Train each candidate on all folds but one, evaluate it on that one, for every fold.

    `groups` names the document of each example: examples of one document are never on both sides.
    `build(setting, training, held)` gets indices into `groups`, int64, and makes a fresh model, how to
    train it, and an `evaluate` on the held examples. It is called with torch's generator seeded, so that
    candidates begin alike. Folds are equal for all candidates, so their losses can be compared fold by
    fold. Raises SpecError without candidates or `evaluate`, DataError for fewer groups than folds.
    """
    if not candidates:
        raise SpecError("there are no candidates to choose among")
    folds = folds_of(groups, num_folds, seed)
    scores: dict[str, Score] = {}
    directions: set[bool] = set()
    for name, setting in candidates.items():
        losses: list[float] = []
        for fold in range(num_folds):
            torch.manual_seed(seed)
            task, config = build(setting, np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
            directions.add(config.maximize)
            train(task, config)
            held = heldout_losses(task)
            losses.append(sum(held) / len(held))
        scores[name] = Score(sum(losses) / num_folds, standard_error(losses), tuple(losses))
    if len(directions) > 1:
        raise SpecError("some candidates maximize and some do not: they cannot be compared")
    sign = -1.0 if directions == {True} else 1.0
    return CrossValidation(scores, min(scores, key=lambda name: sign * scores[name].mean))
