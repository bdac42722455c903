"""`penjing distill`: a student learns what its teacher says, from the teacher or from a store of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact.config import count_parameters
from penjing.distill.lessons import Lesson, Lessons
from penjing.distill.losses import DistillationLoss, temperature_kl
from penjing.distill.on_policy import OnPolicy
from penjing.distill.store import Knowledge, KnowledgeStore
from penjing.distill.store_writing import write_store
from penjing.distill.task import Distillation, Teacher, distillation_task
from penjing.distill.vocabulary import check_same_tokens
from penjing.measure.machine import usable_memory_bytes
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel
from penjing.models.trainable import TrainableModel
from penjing.optimize.learning import BYTES_A_WEIGHT, Learning, evaluation, forward_flops, muon
from penjing.optimize.order import Order, Shaped, Side
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.shaping import BATCH, check_memory, check_output, streamed
from penjing.optimize.texts import Texts
from penjing.spec import DistillStep
from penjing.training.loop import Task
from penjing.training.optimizers import OptimizerConfig

RATE = 0.003  # of Muon (docs/compression.md)


def distill(
    student: str | Path,
    teacher: str | Path,
    out: str | Path,
    step: DistillStep | None = None,
    data: Sequence[Path] = (),
    *,
    store: Path | None = None,
    state: Path | None = None,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    say: Say = silent,
    progress: Progress = silent,
) -> Shaped:
    """Write the student after it learned from the teacher; both are checkpoints of one tokenizer.

    step: None is 200 steps. data: texts to learn from; without, the built-in one and one that the
    teacher writes. store: a directory where tokens drawn from the teacher are kept, written if it is not
    there; later students of the same text do without the teacher. state: a directory to save to and to go on
    from. The weights that stay are those of the least KL from the teacher on text held apart or, with a
    store, of the least loss. Raises VocabularyMismatchError, KnowledgeStoreError, OutputExistsError,
    SpecError, DataError, DivergedError.
    """
    order = Order(Path(out), data, seed, force, threads, say, progress)
    return distilled(student, teacher, step or DistillStep(), order, state=state, store=store)


def distilled(
    student: str | Path,
    teacher: str | Path,
    step: DistillStep,
    order: Order,
    *,
    state: Path | None = None,
    store: Path | None = None,
) -> Shaped:
    """As `distill`."""
    pupil, master = Checkpoint.open(student), Checkpoint.open(teacher)
    check_same_tokens(master, pupil)
    check_output(order.out, order.force)
    check_memory("training", count_parameters(pupil.config), BYTES_A_WEIGHT)
    return Distilling(pupil, step, order, state, teacher=master, store=store).learned()


@dataclass(frozen=True, eq=False)
class Distilling(Learning[Lesson]):
    """A student that learns what its teacher says. store: see `distill`."""

    step: DistillStep
    teacher: Checkpoint = field(kw_only=True)
    store: Path | None = None

    @cached_property
    def reading(self) -> TrainableModel | TorchModel:
        """The teacher in memory or, where there is no room beside the student, read block by block."""
        student, teacher = (count_parameters(one.config) for one in (self.checkpoint, self.teacher))
        if BYTES_A_WEIGHT * student + 4 * teacher <= usable_memory_bytes():
            return TrainableModel.of(self.teacher, self.length)
        return streamed(self.teacher, self.length)

    @property
    def flops_a_sequence(self) -> int:
        """Those of a teacher that is asked are among them."""
        asked = forward_flops(self.teacher.config, self.length) if self.store is None else 0
        return super().flops_a_sequence + asked

    def beginning(self) -> tuple[TrainableModel, OptimizerConfig]:
        """The student, whole."""
        rate, width = self.step.learning_rate or RATE, self.checkpoint.config.hidden_size
        return TrainableModel.of(self.checkpoint, self.length), muon(rate, width)

    def task(self, model: TrainableModel, texts: Texts) -> Task[Lesson]:
        """Lessons of the teacher or of a store; judged by the KL where the teacher is there to be asked."""
        step = self.step
        if self.store is not None:
            return self.taught(model, texts, self.stored(self.store, texts))
        task = self.rehearsal(model, texts)
        if not (step.soft_weight or step.feature_weight or step.relation_weight):
            return task
        return replace(task, evaluate=lambda: divergences(self.reading, model, texts.stop))

    def rehearsal(self, model: TrainableModel, texts: Texts) -> Task[Lesson]:
        """Lessons of the teacher, also where there is a store."""
        return self.taught(model, texts, self.reading)

    def taught(self, model: TrainableModel, texts: Texts, teacher: Teacher) -> Task[Lesson]:
        """Lessons of whoever teaches, judged by the loss of the text."""
        lessons = Lessons(texts.learn, self.length, self.step.batch, self.order.seed)
        task = distillation_task(model, teacher, lessons, losses_of(self.step, self.order.seed))
        return replace(task, evaluate=evaluation(model, texts.stop))

    def stored(self, directory: Path, texts: Texts) -> KnowledgeStore:
        """The store of the teacher's knowledge of this text, written if it is not there."""
        knowledge = Knowledge.of(self.teacher, texts.learn, texts.length, seed=self.order.seed)
        return write_store(
            directory,
            knowledge,
            lambda number: texts.learn.blocks([number], texts.length)[0, :-1],
            self.reading,
            report=lambda done: self.order.progress("the teacher's knowledge", done, knowledge.num_blocks),
        )

    def side(self, checkpoint: Checkpoint, texts: Texts) -> Side:
        """With the KL from the teacher."""
        apart = divergences(self.reading, streamed(checkpoint, self.length), texts.report)
        return super().side(checkpoint, texts).model_copy(update={"kl": float(np.mean(apart))})


def losses_of(step: DistillStep, seed: int) -> Distillation:
    """A step in the terms of what takes it."""
    return Distillation(
        soft=DistillationLoss(kind=step.loss, temperature=step.temperature, beta=step.beta),
        soft_weight=step.soft_weight,
        hard_weight=step.hard_weight,
        feature_weight=step.feature_weight,
        relation_weight=step.relation_weight,
        on_policy=OnPolicy(fraction=step.on_policy, seed=seed) if step.on_policy else None,
    )


@torch.no_grad()
def divergences(
    teacher: Callable[[Tensor], Tensor], student: Callable[[Tensor], Tensor], blocks: NDArray[np.int64]
) -> list[float]:
    """The mean KL of the student from the teacher in every block, nats; blocks: int64 [n, length + 1]."""
    found: list[float] = []
    for tokens in torch.split(torch.from_numpy(blocks[:, :-1]), BATCH):
        pairs = zip(student(tokens), teacher(tokens), strict=True)
        found += [float(temperature_kl(mine, theirs)) for mine, theirs in pairs]
    return found
