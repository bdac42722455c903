"""The training loop: any torch module, any objective, descent or ascent, resumable to the same bytes.

Batch number i is a function of i, and torch's generator is seeded anew at every step: the position in the
data and in the random numbers is the step number, and the loop holds no iterator. One step takes
`micro_batches` batches, shared among the ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from penjing.errors import DivergedError, SpecError
from penjing.training.optimizers import AdamW, OptimizerConfig, build_optimizers
from penjing.training.ranks import SINGLE, Ranks
from penjing.training.schedules import Schedule
from penjing.training.state import Progress, Run, load_state, save_state

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after `patience` evaluations in a row without an improvement of `min_delta`; restore the best
    weights.
    """

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. With `maximize` the objective is ascended and higher evaluations are better.

    `evaluate_every` and `log_every` count steps; `save_seconds` is wall time between saved states. A
    resumed run may change `num_steps`, `schedule` and what concerns reports, not the optimizer, batches,
    clipping, seed or direction.
    """

    num_steps: int
    optimizer: OptimizerConfig = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Schedule)
    micro_batches: int = 1
    max_gradient_norm: float | None = 1.0
    maximize: bool = False
    bf16: bool = False
    seed: int = 0
    evaluate_every: int = 0
    early_stopping: EarlyStopping | None = None
    log_every: int = 20
    save_seconds: float = 180.0

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.micro_batches < 1 or self.log_every < 1:
            raise SpecError("num_steps, micro_batches and log_every must be at least 1")
        if self.early_stopping is not None and not self.evaluate_every:
            raise SpecError("early stopping needs evaluate_every")

    def fixed_settings(self) -> str:
        """What a resumed run must share with the run that saved the state."""
        return (
            f"{self.optimizer}, micro_batches={self.micro_batches}, "
            f"max_gradient_norm={self.max_gradient_norm}, maximize={self.maximize}, "
            f"bf16={self.bf16}, seed={self.seed}"
        )


@dataclass(frozen=True)
class Task(Generic[Batch]):
    """What to train: `batch(i)` gives micro-batch i, `objective` its mean loss, `evaluate` a held-out mean.

    With several ranks `evaluate` covers the rank's own, equally large share of the held-out data.
    """

    model: nn.Module
    batch: Callable[[int], Batch]
    objective: Callable[[Batch], Tensor]
    evaluate: Callable[[], float] | None = None


@dataclass(frozen=True)
class StepReport:
    """One line for the log: steps done, mean loss since the last line, held-out loss if just measured."""

    step: int
    loss: float
    heldout_loss: float | None
    seconds_per_step: float


@dataclass
class Clock:
    """Wall times that decide when to save and what a step took; they never influence the weights."""

    saved_at: float
    reported_at: float
    reported_step: int


def train(
    task: Task[Batch],
    config: TrainingConfig,
    directory: Path | None = None,
    *,
    report: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    ranks: Ranks = SINGLE,
) -> Progress:
    """Train `task.model` in place until `num_steps`, early stopping, or `should_stop` on any rank.

    With a `directory` the run continues from the state it finds there and rank 0 saves its own. Raises
    SpecError for settings that do not fit together or with the saved state, CorruptCheckpointError for a
    foreign state, and DivergedError when the loss is not finite (the saved state is then still the
    last good one).
    """
    if config.evaluate_every and task.evaluate is None:
        raise SpecError("evaluate_every is set, but the task has no evaluate function")
    if config.micro_batches % ranks.size:
        raise SpecError(f"{config.micro_batches} micro-batches cannot be shared evenly by {ranks.size} ranks")
    optimizers = build_optimizers(task.model, config.optimizer, config.maximize)
    run = Run(task.model, optimizers, config.fixed_settings())
    if directory is not None:
        load_state(directory, run)
    progress, now = run.progress, time.monotonic()
    clock = Clock(saved_at=now, reported_at=now, reported_step=progress.step)
    while progress.step < config.num_steps and not progress.stopped_early:
        if ranks.sum(float(should_stop is not None and should_stop())):
            break
        progress.recent_losses.append(take_step(task, config, run, ranks))
        progress.step += 1
        heldout = None
        if config.evaluate_every and progress.step % config.evaluate_every == 0:
            heldout = ranks.sum(evaluate(task)) / ranks.size
            judge(run, config, heldout)
        if progress.step % config.log_every == 0:
            line = next_report(progress, clock, heldout)
            if report is not None:
                report(line)
        if (
            directory is not None
            and ranks.rank == 0
            and time.monotonic() - clock.saved_at > config.save_seconds
        ):
            save_state(directory, run)
            clock.saved_at = time.monotonic()
    if directory is not None and ranks.rank == 0:
        save_state(directory, run)
    if run.best_weights is not None and (progress.stopped_early or progress.step >= config.num_steps):
        task.model.load_state_dict(run.best_weights)
    return progress


def take_step(task: Task[Batch], config: TrainingConfig, run: Run, ranks: Ranks) -> float:
    """One optimizer step over `micro_batches` batches; returns their mean loss, the same on every rank."""
    step = run.progress.step
    # A seed for each step and rank, far apart for neighbouring run seeds.
    torch.manual_seed((config.seed << 40) + step * ranks.size + ranks.rank)
    factor = config.schedule.factor(step, config.num_steps)
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
    total = 0.0
    for i in range(ranks.rank, config.micro_batches, ranks.size):
        batch = task.batch(step * config.micro_batches + i)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            loss = task.objective(batch)
        (loss / config.micro_batches).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    mean = ranks.sum(total) / config.micro_batches
    if not math.isfinite(mean):
        raise DivergedError(f"the loss at step {step} is {mean}: lower the learning rate")
    ranks.sum_gradients(task.model)
    if config.max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(task.model.parameters(), config.max_gradient_norm)
    for optimizer in run.optimizers:
        optimizer.step()
    return mean


def evaluate(task: Task[Batch]) -> float:
    """The task's held-out mean, in evaluation mode and without gradients."""
    assert task.evaluate is not None
    was_training = task.model.training
    task.model.eval()
    with torch.no_grad():
        value = task.evaluate()
    task.model.train(was_training)
    return value


def judge(run: Run, config: TrainingConfig, heldout: float) -> None:
    """Record one evaluation; with early stopping keep the best weights and count evaluations without
    progress.
    """
    progress, stopping = run.progress, config.early_stopping
    progress.heldout_curve.append((progress.step, heldout))
    if stopping is None:
        return
    sign = -1.0 if config.maximize else 1.0
    if progress.best_loss is None or sign * (progress.best_loss - heldout) > stopping.min_delta:
        progress.best_loss, progress.best_step, progress.num_bad_evaluations = heldout, progress.step, 0
        run.best_weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        return
    progress.num_bad_evaluations += 1
    progress.stopped_early = progress.num_bad_evaluations >= stopping.patience


def next_report(progress: Progress, clock: Clock, heldout: float | None) -> StepReport:
    """Close the current stretch of steps: append to the training curve and start the next stretch."""
    loss = sum(progress.recent_losses) / len(progress.recent_losses)
    progress.train_curve.append((progress.step, loss))
    progress.recent_losses.clear()
    now = time.monotonic()
    seconds = (now - clock.reported_at) / (progress.step - clock.reported_step)
    clock.reported_at, clock.reported_step = now, progress.step
    return StepReport(progress.step, loss, heldout, seconds)
