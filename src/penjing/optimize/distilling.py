"""`penjing distill`: a student learns what its teacher says, from the teacher or from a store of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact.config import count_parameters
from penjing.distill.lessons import Lessons
from penjing.distill.losses import DistillationLoss, temperature_kl
from penjing.distill.store import Knowledge, KnowledgeStore
from penjing.distill.store_writing import write_store
from penjing.distill.task import Distillation, Teacher, distillation_task
from penjing.distill.vocabulary import check_same_tokens
from penjing.measure.machine import usable_memory_bytes
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.models.trainable import TrainableModel
from penjing.optimize.learning import BYTES_A_WEIGHT, Learning, evaluation, learn
from penjing.optimize.progress import Progress, silent
from penjing.optimize.quantizing import Say, say_nothing
from penjing.optimize.shaping import (
    BATCH,
    Shaped,
    check_memory,
    check_output,
    length_of,
    measured,
    publish,
    torch_threads,
)
from penjing.optimize.texts import Texts, Wanted, gather_texts

RATE_BY_WIDTH = 0.25  # learning rate times hidden size: 0.001 at 256, 0.00006 at 4096
TIMES_READ = 2  # every block, where the number of steps is known
BLOCKS = 1024  # that are written and gathered where it is not


def distill(
    student: str | Path,
    teacher: str | Path,
    out: str | Path,
    learning: Learning | None = None,
    data: Sequence[Path] = (),
    *,
    loss: DistillationLoss | None = None,
    store: Path | None = None,
    state: Path | None = None,
    force: bool = False,
    threads: int | None = None,
    say: Say = say_nothing,
    progress: Progress = silent,
) -> Shaped:
    """Write the student after it learned from the teacher; both are checkpoints of one tokenizer.

    loss: None is the KL at temperature 1. data: texts to learn from; without, the built-in one and one that
    the teacher writes. store: a directory where tokens drawn from the teacher are kept, written if it is not
    there; later students of the same text do without the teacher. state: see `learn`. Raises
    VocabularyMismatchError, KnowledgeStoreError, OutputExistsError, SpecError, DataError, DivergedError.
    """
    learning, target = learning or Learning(), Path(out)
    pupil, master = Checkpoint.open(student), Checkpoint.open(teacher)
    check_same_tokens(master, pupil)
    check_output(target, force)
    check_memory("training", count_parameters(pupil.config), BYTES_A_WEIGHT)
    length = length_of(learning.sequence_tokens, pupil, master)
    blocks = learning.blocks(TIMES_READ)
    wanted = Wanted(length, BLOCKS if blocks is None and not data else blocks, learning.seed)
    with TemporaryDirectory() as scratch, torch_threads(threads):
        texts = gather_texts(master, data, wanted, Path(scratch), threads=threads, say=say, progress=progress)
        before, above = measured(pupil, texts.report), measured(master, texts.report)
        model = TrainableModel.of(pupil, length)
        reading = reader(master, length, count_parameters(pupil.config) * BYTES_A_WEIGHT)
        before = before.model_copy(update={"kl": divergence(reading, model, texts.report)})
        teaching: Teacher = reading
        if store is not None:
            teaching = stored(store, master, reading, texts, seed=learning.seed, progress=progress)
        lessons = Lessons(texts.learn, length, learning.batch, learning.seed)
        config = Distillation(soft=loss or DistillationLoss())
        task = distillation_task(model, teaching, lessons, config)
        task = replace(task, evaluate=evaluation(model, texts.stop))
        rate = RATE_BY_WIDTH / pupil.config.hidden_size
        learned = learn(task, learning, rate, length, state=state, say=say, progress=progress)
        written = publish(target, pupil.config, model.tensors(), pupil, force=force)
        whole = TorchModel(written.config, lambda name: tensor_of(written.read(name)), length)
        apart = divergence(reading, whole, texts.report)
        after = measured(written, texts.report).model_copy(update={"kl": apart})
    return Shaped(
        path=str(out),
        before=before,
        after=after,
        teacher=above,
        held_tokens=texts.report[:, 1:].size,
        seconds=learned.seconds,
        steps=learned.steps,
        tokens_trained=learned.tokens,
    )


@torch.no_grad()
def divergence(
    teacher: Callable[[Tensor], Tensor], student: Callable[[Tensor], Tensor], blocks: NDArray[np.int64]
) -> float:
    """The mean KL of the student from the teacher in nats; blocks: int64 [n, length + 1]."""
    total = 0.0
    for tokens in torch.split(torch.from_numpy(blocks[:, :-1]), BATCH):
        total += float(temperature_kl(student(tokens), teacher(tokens))) * len(tokens)
    return total / len(blocks)


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
