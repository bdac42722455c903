"""`penjing distill`: a student learns what its teacher says, from the teacher or from a store of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

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
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.models.trainable import TrainableModel
from penjing.optimize.learning import (
    BYTES_A_WEIGHT,
    FORWARD_AND_BACKWARD,
    Run,
    evaluation,
    forward_flops,
    learn,
    muon,
    steps_of,
)
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.shaping import (
    BATCH,
    Shaped,
    check_memory,
    check_output,
    length_of,
    measured,
    publish,
    result,
    torch_threads,
)
from penjing.optimize.texts import Texts, Wanted, gather_texts
from penjing.spec import DistillStep
from penjing.training.loop import Task

RATE = 0.003  # of Muon (docs/compression.md)
REHEARSED = 2  # batches, to learn how many fit into a time


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
    step, target = step or DistillStep(), Path(out)
    pupil, master = Checkpoint.open(student), Checkpoint.open(teacher)
    check_same_tokens(master, pupil)
    check_output(target, force)
    check_memory("training", count_parameters(pupil.config), BYTES_A_WEIGHT)
    length = length_of(step.sequence_tokens, pupil, master)
    with TemporaryDirectory() as scratch, torch_threads(threads):
        model = TrainableModel.of(pupil, length)
        reading = reader(master, length, count_parameters(pupil.config) * BYTES_A_WEIGHT)

        def texts_of(blocks: int) -> Texts:
            place = Path(mkdtemp(dir=scratch))
            wanted = Wanted(length, blocks, seed)
            return gather_texts(master, data, wanted, place, threads=threads, say=say, progress=progress)

        def task_of(texts: Texts, teaching: Teacher) -> Task[Lesson]:
            lessons = Lessons(texts.learn, length, step.batch, seed)
            return distillation_task(model, teaching, lessons, losses_of(step, seed))

        num_steps = steps_of(step, state, lambda: task_of(texts_of(REHEARSED * step.batch), reading))
        texts = texts_of(max(step.batch, num_steps * step.batch))
        before, above = measured(pupil, texts.report), measured(master, texts.report)
        before = before.model_copy(update={"kl": float(np.mean(divergences(reading, model, texts.report)))})
        teaching: Teacher = reading
        if store is not None:
            teaching = stored(store, master, reading, texts, seed=seed, progress=progress)
        flops = FORWARD_AND_BACKWARD * forward_flops(pupil.config, length)
        if store is None:
            flops += forward_flops(master.config, length)
        task = task_of(texts, teaching)
        if store is None and (step.soft_weight or step.feature_weight or step.relation_weight):
            task = replace(task, evaluate=lambda: divergences(reading, model, texts.stop))
        else:
            task = replace(task, evaluate=evaluation(model, texts.stop))
        optimizer = muon(step.learning_rate or RATE, pupil.config.hidden_size)
        run = Run(step, num_steps, length, optimizer, step.batch * flops, seed, state)
        learned = learn(task, run, say=say, progress=progress)
        written = publish(target, pupil.config, model.tensors(), pupil, force=force)
        whole = TorchModel(written.config, lambda name: tensor_of(written.read(name)), length)
        apart = float(np.mean(divergences(reading, whole, texts.report)))
        after = measured(written, texts.report).model_copy(update={"kl": apart})
        shaped = result(target, before, after, texts)
    return shaped.model_copy(update={"teacher": above, **asdict(learned)})


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


def reader(teacher: Checkpoint, length: int, bytes_taken: int) -> TrainableModel | TorchModel:
    """The teacher in memory or, where there is no room beside what is taken, read block by block."""
    if bytes_taken + 4 * count_parameters(teacher.config) <= usable_memory_bytes():
        return TrainableModel.of(teacher, length)
    return TorchModel(teacher.config, lambda name: tensor_of(teacher.read(name)), length)


def stored(
    directory: Path,
    checkpoint: Checkpoint,
    teacher: TrainableModel | TorchModel,
    texts: Texts,
    *,
    seed: int,
    progress: Progress,
) -> KnowledgeStore:
    """The store of a teacher's knowledge of this text, written if it is not there."""
    knowledge = Knowledge.of(checkpoint, texts.learn, texts.length, seed=seed)
    return write_store(
        directory,
        knowledge,
        lambda number: texts.learn.blocks([number], texts.length)[0, :-1],
        teacher,
        report=lambda done: progress("the teacher's knowledge", done, knowledge.num_blocks),
    )
