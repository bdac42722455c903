"""How many steps a model learns for, the run itself, and what it took; what distilling and training share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.errors import CorruptCheckpointError
from penjing.measure.cost import model_cost
from penjing.measure.machine import multiplies_bf16
from penjing.models.trainable import TrainableModel
from penjing.optimize.progress import Progress, Say
from penjing.spec.steps import Paced
from penjing.training.loop import Task, TrainingConfig, train
from penjing.training.objectives import sequence_losses
from penjing.training.optimizers import AdamW, Muon, OptimizerConfig
from penjing.training.reports import Effort, StepReport
from penjing.training.schedules import Schedule
from penjing.training.state import write_text
from penjing.training.stopping import EarlyStopping

Batch = TypeVar("Batch")

STEPS = 200  # where nobody says how long
EVALUATIONS = 10  # of a run
ADAMW_RATE = 85.0  # over the width, of Muon's rate: a third of it at 256
WARMUP = 0.05  # part of the steps
EVALUATED_AT_ONCE = 4  # blocks
BYTES_A_WEIGHT = 20  # a float, its gradient, two moments, and the best weights so far
SHARE_OF_TIME = 0.85  # for steps; evaluations take the rest
FORWARD_AND_BACKWARD = 3  # times the operations of going forward
PROBE_WIDTH, PROBES = 1024, 5
STEPS_FILE = "steps"  # in the directory of a state: what minutes came to


@dataclass(frozen=True)
class Run:
    """What a run of `num_steps` steps is besides its task.

    optimizer: with its rates. flops_per_step: of a step's matrices, forward and backward.
    state: a directory to save to and to go on from.
    """

    pace: Paced
    num_steps: int
    length: int
    optimizer: OptimizerConfig
    flops_per_step: float
    seed: int
    state: Path | None

    @property
    def tokens_per_step(self) -> int:
        """Tokens read."""
        return self.pace.batch * self.length


@dataclass(frozen=True)
class Learned:
    """Steps done, tokens read by them, their wall time over all resumptions, and the part of this machine's
    float32 rate that their matrices took.
    """

    steps: int
    tokens_trained: int
    seconds: float
    flop_utilisation: float


def steps_of(pace: Paced, state: Path | None, rehearse: Callable[[], Task[Batch]]) -> int:
    """How many steps a run has: what is asked for, or what fits into its minutes.

    rehearse: a task like that of the run, to time. What minutes come to is kept with the run's state, so that
    it goes on with the same number.
    """
    if pace.minutes is None:
        return pace.steps or STEPS
    kept = None if state is None else state / STEPS_FILE
    if kept is not None and kept.is_file():
        text = kept.read_text("utf-8").strip()
        if not text.isdecimal() or not int(text):
            raise CorruptCheckpointError(f"{kept}: is no number of steps; remove {kept.parent}")
        return int(text)
    steps = steps_within(rehearse(), SHARE_OF_TIME * 60 * pace.minutes)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, f"{steps}\n")
    return steps


def steps_within(task: Task[Batch], seconds: float) -> int:
    """How many steps fit, by the time of the second of two that move nothing."""
    taken = 0.0
    for number in range(2):
        began = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
            loss = task.objective(task.batch(number))
        loss.backward()  # type: ignore[no-untyped-call]
        task.model.zero_grad(set_to_none=True)
        taken = time.monotonic() - began
    return max(1, int(seconds / taken))


def muon(rate: float, width: int) -> Muon:
    """Muon for the matrices of the blocks, at a rate that fits every width; AdamW for the rest."""
    return Muon(learning_rate=rate, adamw=AdamW(learning_rate=ADAMW_RATE * rate / width))


def learn(task: Task[Batch], run: Run, *, say: Say, progress: Progress) -> Learned:
    """Train `task.model`, in place, on a cosine; of the evaluations the best one's weights stay.

    Matrices are multiplied in bfloat16 where the processor has such products.

    Raises DivergedError, and what `train` raises.
    """
    steps, tokens = run.num_steps, run.tokens_per_step
    every = max(1, steps // EVALUATIONS)
    effort = Effort(run.flops_per_step, float_operations_per_second())
    config = TrainingConfig(
        num_steps=steps,
        optimizer=run.optimizer,
        schedule=Schedule("cosine", warmup_steps=max(1, round(WARMUP * steps))),
        bf16=multiplies_bf16(),
        seed=run.seed,
        evaluate_every=every,
        early_stopping=EarlyStopping(patience=steps, standard_errors=0.0),
        log_every=every,
        effort=effort,
    )

    def batch(number: int) -> Batch:
        progress("train", number, steps)
        return task.batch(number)

    counted = replace(task, batch=batch, num_tokens=lambda _: tokens)
    done = train(counted, config, run.state, report=lambda line: say(told(line, steps)))
    progress("train", done.step, done.step)
    logged = done.step // every * every  # the clock stops with the last line
    seconds = done.seconds * done.step / logged
    rate = effort.flops_per_step * done.step / seconds
    return Learned(done.step, done.step * tokens, seconds, rate / effort.peak_flops_per_second)


def told(line: StepReport, steps: int) -> str:
    """One line about a stretch of steps."""
    held = "" if line.heldout_loss is None else f", held out {line.heldout_loss:.4f}"
    pace, part = line.tokens_per_second or 0.0, line.flop_utilisation or 0.0
    return (
        f"step {line.step} of {steps}: loss {line.loss:.4f}{held}; {pace:,.0f} tokens/s, "
        f"{part:.0%} of the float32 rate, {line.peak_memory_bytes / 1e9:.2f} GB"
    )


def forward_flops(config: ModelConfig, length: int) -> int:
    """Of a sequence so long, with logits for every token."""
    cost = model_cost(config, dict.fromkeys(expected_tensors(config), 0), prefill_tokens=length)
    return cost.prefill_flops + 2 * (length - 1) * config.vocab_size * config.hidden_size


def float_operations_per_second() -> float:
    """The rate of a product of float32 matrices with torch's threads, the best of a few."""
    matrix, best = torch.ones(PROBE_WIDTH, PROBE_WIDTH), float("inf")
    for _ in range(PROBES):
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - began)
    return 2 * PROBE_WIDTH**3 / best


def evaluation(model: TrainableModel, blocks: NDArray[np.int64]) -> Callable[[], list[float]]:
    """The loss of every block, int64 [n, length + 1], nats per token."""

    def evaluate() -> list[float]:
        losses: list[float] = []
        for chunk in torch.split(torch.from_numpy(blocks), EVALUATED_AT_ONCE):
            losses += sequence_losses(model(chunk[:, :-1]), chunk[:, 1:]).tolist()
        return losses

    return evaluate
