"""How long and how fast a model learns, and the run itself; what distilling and training share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from penjing.models.trainable import TrainableModel
from penjing.optimize.progress import Progress
from penjing.optimize.quantizing import Say
from penjing.spec import Spec
from penjing.training.loop import Task, TrainingConfig, train
from penjing.training.objectives import sequence_losses
from penjing.training.optimizers import AdamW
from penjing.training.reports import StepReport
from penjing.training.schedules import Schedule
from penjing.training.stopping import EarlyStopping

Batch = TypeVar("Batch")

STEPS = 200  # where nobody says how long
EVALUATIONS = 10  # of a run
WARMUP = 0.05  # part of the steps
EVALUATED_AT_ONCE = 4  # blocks
BYTES_A_WEIGHT = 20  # a float, its gradient, two moments, and the best weights so far
SHARE_OF_TIME = 0.85  # for steps; evaluations take the rest


class Learning(Spec):
    """steps or minutes, not both; neither is 200 steps. learning_rate: of AdamW, None for one that goes with
    the width. A step takes `batch` sequences of `sequence_tokens`.
    """

    steps: int | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    batch: int = Field(default=8, gt=0)
    sequence_tokens: int = Field(default=256, gt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def check_one(self) -> Self:
        """A run has one length."""
        if self.steps is not None and self.minutes is not None:
            raise ValueError("steps and minutes: give one of them")
        return self

    def blocks(self, times: int) -> int | None:
        """How many blocks are needed to read each so many times; None if time decides."""
        if self.minutes is not None:
            return None
        return max(self.batch, (self.steps or STEPS) * self.batch // times)


@dataclass(frozen=True)
class Learned:
    """Steps done, tokens read by them, and the wall time of it all."""

    steps: int
    tokens: int
    seconds: float


def learn(
    task: Task[Batch],
    learning: Learning,
    rate: float,
    length: int,
    *,
    state: Path | None,
    say: Say,
    progress: Progress,
) -> Learned:
    """Train `task.model`, in place, by AdamW on a cosine; of the evaluations the best one's weights stay.

    rate: the learning rate where none is asked for. state: a directory to save to and to go on from. Raises
    DivergedError, and what `train` raises.
    """
    started = time.monotonic()
    steps = learning.steps or STEPS
    if learning.minutes is not None:
        steps = steps_within(task, SHARE_OF_TIME * 60 * learning.minutes)
    every = max(1, steps // EVALUATIONS)
    config = TrainingConfig(
        num_steps=steps,
        optimizer=AdamW(learning_rate=learning.learning_rate or rate),
        schedule=Schedule("cosine", warmup_steps=max(1, round(WARMUP * steps))),
        seed=learning.seed,
        evaluate_every=every,
        early_stopping=EarlyStopping(patience=steps, standard_errors=0.0),
        log_every=every,
    )
    tokens = learning.batch * length

    def batch(number: int) -> Batch:
        progress("train", number, steps)
        return task.batch(number)

    def report(line: StepReport) -> None:
        say(told(line, steps, tokens))

    counted = replace(task, batch=batch, num_tokens=lambda _: tokens)
    deadline = None if learning.minutes is None else started + 60 * learning.minutes
    done = train(
        counted,
        config,
        state,
        report=report,
        should_stop=lambda: deadline is not None and time.monotonic() > deadline,
    )
    progress("train", done.step, done.step)
    return Learned(done.step, done.step * tokens, time.monotonic() - started)


def told(line: StepReport, steps: int, tokens: int) -> str:
    """One line about a stretch of steps."""
    held = "" if line.heldout_loss is None else f", held out {line.heldout_loss:.4f}"
    pace = tokens / line.seconds_per_step
    return f"step {line.step} of {steps}: loss {line.loss:.4f}{held}; {pace:,.0f} tokens/s"


def steps_within(task: Task[Batch], seconds: float) -> int:
    """How many steps fit, by the time of the second of two that move nothing."""
    taken = 0.0
    for number in range(2):
        began = time.monotonic()
        task.objective(task.batch(number)).backward()  # type: ignore[no-untyped-call]
        task.model.zero_grad(set_to_none=True)
        taken = time.monotonic() - began
    return max(1, int(seconds / taken))


def evaluation(model: TrainableModel, blocks: NDArray[np.int64]) -> Callable[[], list[float]]:
    """The loss of every block, int64 [n, length + 1], nats per token."""

    def evaluate() -> list[float]:
        losses: list[float] = []
        for chunk in torch.split(torch.from_numpy(blocks), EVALUATED_AT_ONCE):
            losses += sequence_losses(model(chunk[:, :-1]), chunk[:, 1:]).tolist()
        return losses

    return evaluate
