"""The training loop: any torch module, any objective, descent or ascent, resumable to the same bytes.

Batch number i is a function of i, and torch's generator is seeded anew at every step: the position in the
data and in the random numbers is the step number, and the loop holds no iterator. One step takes
`micro_batches` batches, shared among the ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from penjing.errors import DivergedError, EmptyDataError, SpecError
from penjing.training.bounds import Bounds, confine
from penjing.training.optimizers import AdamW, OptimizerConfig, build_optimizers, soft_threshold
from penjing.training.ranks import SINGLE, Ranks
from penjing.training.reports import Clock, Effort, StepReport, close_stretch
from penjing.training.schedules import Schedule
from penjing.training.state import Progress, Run, load_state, save_state
from penjing.training.stopping import EarlyStopping, judge

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. With `maximize` the objective is ascended, higher evaluations are better, and `bounds`
    say how far it may go.

    `l1_penalty` times the sum of |w| over hidden matrices is added to what is minimized (taken from what is
    maximized), as a proximal step that leaves exact zeros; no reported loss contains it. `evaluate_every`
    and `log_every` count steps; `save_seconds` is wall time between saved states. A resumed run may change
    `num_steps`, `schedule`, stopping and what concerns reports, and nothing else.
    """

    num_steps: int
    optimizer: OptimizerConfig = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Schedule)
    micro_batches: int = 1
    max_gradient_norm: float | None = 1.0
    l1_penalty: float = 0.0
    maximize: bool = False
    bounds: Bounds = field(default_factory=Bounds)
    bf16: bool = False
    seed: int = 0
    evaluate_every: int = 0
    early_stopping: EarlyStopping | None = None
    log_every: int = 20
    save_seconds: float = 180.0
    effort: Effort | None = None

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.micro_batches < 1 or self.log_every < 1:
            raise SpecError("num_steps, micro_batches and log_every must be at least 1")
        if self.l1_penalty < 0:
            raise SpecError(f"l1_penalty is {self.l1_penalty}: it must not be negative")
        if self.early_stopping is not None and not self.evaluate_every:
            raise SpecError("early stopping needs evaluate_every")

    def fixed_settings(self) -> str:
        """What a resumed run must share with the run that saved the state."""
        return (
            f"{self.optimizer}, micro_batches={self.micro_batches}, "
            f"max_gradient_norm={self.max_gradient_norm}, l1_penalty={self.l1_penalty}, "
            f"maximize={self.maximize}, {self.bounds}, bf16={self.bf16}, seed={self.seed}"
        )


@dataclass(frozen=True)
class Task(Generic[Batch]):
    """What to train: `batch(i)` gives micro-batch i, `objective` its mean loss, `num_tokens` its tokens.

    `evaluate` gives a held-out mean, or the loss of each document (or batch), always the same ones in the
    same order: early stopping compares those in pairs. With several ranks it covers the rank's own share of
    the held-out data, which for means is equally large on all.
    """

    model: nn.Module
    batch: Callable[[int], Batch]
    objective: Callable[[Batch], Tensor]
    evaluate: Callable[[], float | Sequence[float]] | None = None
    num_tokens: Callable[[Batch], int] | None = None


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

    With a `directory`, the same for all ranks, the run continues from the state it finds there and rank 0
    saves its own. Raises SpecError for settings that do not fit together or with the saved state,
    CorruptCheckpointError for a foreign state, and DivergedError when the loss is not finite (the saved
    state is then still the last good one).
    """
    if config.evaluate_every and task.evaluate is None:
        raise SpecError("evaluate_every is set, but the task has no evaluate function")
    if config.micro_batches % ranks.size:
        raise SpecError(f"{config.micro_batches} micro-batches cannot be shared evenly by {ranks.size} ranks")
    run = begin(task, config, directory, ranks)
    progress, clock = run.progress, Clock.starting(run.progress.step)
    while progress.step < config.num_steps and not progress.stopped_early:
        if ranks.any(should_stop is not None and should_stop()):
            break
        progress.recent_losses.append(take_step(task, config, run, ranks, clock))
        progress.step += 1
        heldout = None
        if config.evaluate_every and progress.step % config.evaluate_every == 0:
            heldout = judge(run, config.early_stopping, config.maximize, heldout_losses(task, ranks))
        if progress.step % config.log_every == 0:
            line = close_stretch(progress, clock, heldout, config.effort, ranks.sum)
            if report is not None:
                report(line)
        is_due = ranks.rank == 0 and time.monotonic() - clock.saved_at > config.save_seconds
        if directory is not None and ranks.any(is_due):
            save_state(directory, run, ranks)
            clock.saved_at = time.monotonic()
    if directory is not None:
        save_state(directory, run, ranks)
    if run.best_weights is not None and (progress.stopped_early or progress.step >= config.num_steps):
        task.model.load_state_dict(run.best_weights)
    return progress


def begin(task: Task[Batch], config: TrainingConfig, directory: Path | None, ranks: Ranks) -> Run:
    """The run at its first step, or where the state in `directory` left it."""
    optimizers = build_optimizers(task.model, config.optimizer, config.maximize, ranks)
    run = Run(task.model, optimizers, config.fixed_settings())
    if config.bounds.radius is not None:
        run.centre = [parameter.detach().clone() for parameter in run.trainable()]
    if directory is not None:
        load_state(directory, run, ranks)
    return run


def take_step(task: Task[Batch], config: TrainingConfig, run: Run, ranks: Ranks, clock: Clock) -> float:
    """One optimizer step over `micro_batches` batches; returns their mean loss, the same on every rank."""
    step = run.progress.step
    # A seed for each step and rank, far apart for neighbouring run seeds.
    torch.manual_seed((config.seed << 40) + step * ranks.size + ranks.rank)
    factor = config.schedule.factor(step, config.num_steps)
    for optimizer in run.optimizers:
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
    device = next(task.model.parameters()).device.type
    total = 0.0
    for i in range(ranks.rank, config.micro_batches, ranks.size):
        batch = task.batch(step * config.micro_batches + i)
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            loss = task.objective(batch)
        (loss / config.micro_batches).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        clock.num_tokens += 0 if task.num_tokens is None else task.num_tokens(batch)
    mean = ranks.sum(total) / config.micro_batches
    if not math.isfinite(mean):
        raise DivergedError(f"the loss at step {step} is {mean}: lower the learning rate")
    ranks.sum_gradients(task.model)
    if config.max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(task.model.parameters(), config.max_gradient_norm)
    move(run, config, ranks)
    return mean


def move(run: Run, config: TrainingConfig, ranks: Ranks) -> None:
    """Step the optimizers, shrink by the L1 penalty, and come back within the bounds."""
    limit, parameters = config.bounds.step_length, run.trainable()
    before = None if limit is None else [parameter.detach().clone() for parameter in parameters]
    for optimizer in run.optimizers:
        optimizer.step()
    soft_threshold(run.optimizers, config.l1_penalty)
    if before is not None and limit is not None:
        confine(parameters, before, limit, ranks)
    if run.centre is not None and config.bounds.radius is not None:
        confine(parameters, run.centre, config.bounds.radius, ranks)


def heldout_losses(task: Task[Batch], ranks: Ranks = SINGLE) -> list[float]:
    """The task's held-out losses on all ranks (or their one mean), in evaluation mode, without gradients."""
    assert task.evaluate is not None
    was_training = task.model.training
    task.model.eval()
    with torch.no_grad():
        losses = task.evaluate()
    task.model.train(was_training)
    if isinstance(losses, int | float):
        return [ranks.sum(losses) / ranks.size]
    if not losses:
        raise EmptyDataError("evaluate returned no losses: give the held-out part at least one document")
    return ranks.gather(losses)
