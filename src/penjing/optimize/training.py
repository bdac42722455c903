"""`penjing train`: a checkpoint goes on learning from text, whole, by adapters, or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact.config import ModelConfig, block_tensors, count_parameters
from penjing.data.batches import BlockBatches
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel, random_model
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
    Shaped,
    Side,
    check_memory,
    check_output,
    held_loss,
    length_of,
    measured,
    publish,
    result,
    torch_threads,
)
from penjing.optimize.texts import Texts, Wanted, gather_texts
from penjing.spec import TrainStep
from penjing.training.loop import Task
from penjing.training.objectives import next_token_objective
from penjing.training.optimizers import AdamW, OptimizerConfig
from penjing.transfer.adapters import AdapterConfig, adapt

TUNING_RATE, SCRATCH_RATE = 0.001, 0.01  # of Muon, for a trained model and for one that knows nothing
ADAPTER_RATE = 1.0  # of AdamW, times the width
REHEARSED = 2  # batches, to learn how many fit into a time
FROZEN_BYTES_A_WEIGHT = 12  # a float, the same with its change, and the copy that was best


def train(
    model: str | Path,
    out: str | Path,
    data: Sequence[Path],
    step: TrainStep | None = None,
    *,
    state: Path | None = None,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    say: Say = silent,
    progress: Progress = silent,
) -> Shaped:
    """Write a checkpoint trained on the next token of `data`, part of which is held apart.

    step: None is 200 steps on all weights. state: a directory to save to and to go on from. Raises
    OutputExistsError, SpecError, DataError, DivergedError.
    """
    step, target, checkpoint = step or TrainStep(), Path(out), Checkpoint.open(model)
    check_output(target, force)
    each = BYTES_A_WEIGHT if step.lora_rank is None else FROZEN_BYTES_A_WEIGHT
    check_memory("training", count_parameters(checkpoint.config), each)
    length = length_of(step.sequence_tokens, checkpoint)
    with TemporaryDirectory() as scratch, torch_threads(threads):
        trainable, optimizer = beginning(checkpoint, length, step, seed)

        def texts_of(blocks: int) -> Texts:
            place = Path(mkdtemp(dir=scratch))
            wanted = Wanted(length, blocks, seed)
            return gather_texts(checkpoint, data, wanted, place, threads=threads, say=say, progress=progress)

        def task_of(texts: Texts) -> Task[Tensor]:
            batches = BlockBatches(texts.learn, length, step.batch, seed)

            def batch(number: int) -> Tensor:
                return torch.from_numpy(batches(number))

            return Task(trainable, batch, next_token_objective(trainable), evaluation(trainable, texts.stop))

        num_steps = steps_of(step, state, lambda: task_of(texts_of(REHEARSED * step.batch)))
        texts = texts_of(num_steps * step.batch)
        before = measured(checkpoint, texts.report)
        if step.from_scratch:
            before = random_side(before, trainable, texts.report)
        flops = step.batch * FORWARD_AND_BACKWARD * forward_flops(checkpoint.config, length)
        run = Run(step, num_steps, length, optimizer, flops, seed, state)
        learned = learn(task_of(texts), run, say=say, progress=progress)
        written = publish(target, checkpoint.config, trainable.tensors(), checkpoint, force=force)
        shaped = result(target, before, measured(written, texts.report), texts)
    return shaped.model_copy(update=asdict(learned))


def beginning(
    checkpoint: Checkpoint, length: int, step: TrainStep, seed: int
) -> tuple[TrainableModel, OptimizerConfig]:
    """What is trained, and by what."""
    width, asked = checkpoint.config.hidden_size, step.learning_rate
    if step.from_scratch:
        return random_model(checkpoint.config, length, seed), muon(asked or SCRATCH_RATE, width)
    if step.lora_rank is None:
        return TrainableModel.of(checkpoint, length), muon(asked or TUNING_RATE, width)
    matrices, rank = matrices_of(checkpoint.config), step.lora_rank
    adapters = AdapterConfig(matrices=matrices, rank=rank, alpha=2.0 * rank, seed=seed)
    return adapt(checkpoint, length, adapters), AdamW(learning_rate=asked or ADAPTER_RATE / width)


def matrices_of(config: ModelConfig) -> tuple[str, ...]:
    """The matrices of all blocks by their names inside, each once; of experts too, but of no router."""
    names = [
        name
        for block in config.blocks
        for name, role in block_tensors(config, block).items()
        if role.is_matrix and not role.keeps_dtype
    ]
    return tuple(dict.fromkeys(names))


def random_side(trained: Side, model: TrainableModel, blocks: NDArray[np.int64]) -> Side:
    """The side of a random model, of the shape of another one."""
    return trained.model_copy(update={"loss": held_loss(model.config, model.tensor, blocks), "zeros": 0.0})
