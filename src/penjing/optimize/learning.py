"""What distilling and training share: the run from one checkpoint to another, and what it took."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.errors import CorruptCheckpointError
from penjing.measure.cost import model_cost
from penjing.measure.machine import multiplies_bf16
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel
from penjing.optimize.order import Order, Shaped, Side
from penjing.optimize.shaping import (
    length_of,
    measured,
    publish,
    result,
    torch_threads,
)
from penjing.optimize.texts import Texts, Wanted, gather_texts
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
STEPS_FILE = "steps"  # in the directory of a state: what minutes came to
SHARE_OF_TIME = 0.85  # for steps; evaluations take the rest
EVALUATIONS = 10  # of a run
BYTES_A_WEIGHT = 20  # a float, its gradient, two moments, and the best weights so far
ADAMW_RATE = 85.0  # over the width, of Muon's rate: a third of it at 256
WARMUP = 0.05  # part of the steps
EVALUATED_AT_ONCE = 4  # blocks
FORWARD_AND_BACKWARD = 3  # times the operations of going forward
REHEARSED = 2  # steps, to learn how many fit into a time
PROBE_WIDTH, PROBES = 1024, 5


@dataclass(frozen=True)
class Learned:
    """Steps done, tokens read by them, their wall time over all resumptions, and the part of this machine's
    float32 rate that their matrices took.
    """

    steps: int
    tokens_trained: int
    seconds: float
    flop_utilisation: float


@dataclass(frozen=True, eq=False)
class Learning(ABC, Generic[Batch]):
    """A checkpoint that learns from text, and becomes another one.

    state: a directory to save to and to go on from. teacher: who writes and reads the text, if not itself.
    """

    checkpoint: Checkpoint
    step: Paced
    order: Order
    state: Path | None = None
    teacher: Checkpoint | None = None

    @cached_property
    def length(self) -> int:
        """Tokens of a sequence."""
        models = [self.checkpoint] if self.teacher is None else [self.checkpoint, self.teacher]
        return length_of(self.step.sequence_tokens, *models)

    @property
    def flops_a_sequence(self) -> int:
        """Of a step's matrices, forward and backward."""
        return FORWARD_AND_BACKWARD * forward_flops(self.checkpoint.config, self.length)

    @abstractmethod
    def beginning(self) -> tuple[TrainableModel, OptimizerConfig]:
        """What is trained, and by what."""

    @abstractmethod
    def task(self, model: TrainableModel, texts: Texts) -> Task[Batch]:
        """What the model learns from texts."""

    def rehearsal(self, model: TrainableModel, texts: Texts) -> Task[Batch]:
        """What takes as long, to time it."""
        return self.task(model, texts)

    def side(self, checkpoint: Checkpoint, texts: Texts) -> Side:
        """What a checkpoint is on text held apart."""
        return measured(checkpoint, texts.report)

    def texts(self, num_steps: int, scratch: str) -> Texts:
        """As much text as so many steps read."""
        wanted = Wanted(self.length, num_steps * self.step.batch, self.order.seed)
        return gather_texts(self.teacher or self.checkpoint, self.order, wanted, Path(mkdtemp(dir=scratch)))

    def learned(self) -> Shaped:
        """Learn, write what came of it, and measure before and after."""
        order, old = self.order, self.checkpoint
        with TemporaryDirectory() as scratch, torch_threads(order.threads):
            model, optimizer = self.beginning()
            num_steps = steps_of(
                self.step, self.state, lambda: self.rehearsal(model, self.texts(REHEARSED, scratch))
            )
            texts = self.texts(num_steps, scratch)
            before = self.side(old, texts)
            teacher = None if self.teacher is None else measured(self.teacher, texts.report)
            learned = self.learn(self.task(model, texts), optimizer, num_steps)
            after = self.side(publish(order, old.config, model.tensors(), old), texts)
        shaped = result(order.out, before, after, texts)
        return shaped.model_copy(update={"teacher": teacher, **asdict(learned)})

    def learn(self, task: Task[Batch], optimizer: OptimizerConfig, num_steps: int) -> Learned:
        """Train `task.model`, in place, on a cosine; of the evaluations the best one's weights stay.

        Matrices are multiplied in bfloat16 where the processor has such products.

        Raises DivergedError, and what `train` raises.
        """
        order, tokens = self.order, self.step.batch * self.length
        every = max(1, num_steps // EVALUATIONS)
        effort = Effort(self.step.batch * self.flops_a_sequence, float_operations_per_second())
        config = TrainingConfig(
            num_steps=num_steps,
            optimizer=optimizer,
            schedule=Schedule("cosine", warmup_steps=max(1, round(WARMUP * num_steps))),
            bf16=multiplies_bf16(),
            seed=order.seed,
            evaluate_every=every,
            early_stopping=EarlyStopping(patience=num_steps, standard_errors=0.0),
            log_every=every,
            effort=effort,
        )

        def batch(number: int) -> Batch:
            order.progress("train", number, num_steps)
            return task.batch(number)

        counted = replace(task, batch=batch, num_tokens=lambda _: tokens)
        done = train(counted, config, self.state, report=lambda line: order.say(told(line, num_steps)))
        order.progress("train", done.step, done.step)
        logged = done.step // every * every  # the clock stops with the last line
        seconds = done.seconds * done.step / logged
        rate = effort.flops_per_step * done.step / seconds
        return Learned(done.step, done.step * tokens, seconds, rate / effort.peak_flops_per_second)


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
