"""`penjing train`: a checkpoint goes on learning from text, whole, by adapters, or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact.config import ModelConfig, block_tensors, count_parameters
from penjing.data.batches import BlockBatches
from penjing.errors import SpecError
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel, random_model
from penjing.optimize.learning import BYTES_A_WEIGHT, Learning, evaluation, learn
from penjing.optimize.progress import Progress, silent
from penjing.optimize.quantizing import Say, say_nothing
from penjing.optimize.shaping import (
    Shaped,
    Side,
    check_memory,
    check_output,
    held_loss,
    length_of,
    measured,
    publish,
    torch_threads,
)
from penjing.optimize.texts import Wanted, gather_texts
from penjing.training.loop import Task
from penjing.training.objectives import next_token_objective
from penjing.transfer.adapters import AdapterConfig, adapt

# Learning rate times hidden size: of a trained model, of adapters, and of a model that knows nothing.
TUNING_RATE, ADAPTER_RATE, SCRATCH_RATE = 0.1, 1.0, 0.5
FROZEN_BYTES_A_WEIGHT = 12  # a float, the same with its change, and the copy that was best


def train(
    model: str | Path,
    out: str | Path,
    data: Sequence[Path],
    learning: Learning | None = None,
    *,
    from_scratch: bool = False,
    lora_rank: int | None = None,
    state: Path | None = None,
    force: bool = False,
    threads: int | None = None,
    say: Say = say_nothing,
    progress: Progress = silent,
) -> Shaped:
    """Write a checkpoint trained on the next token of `data`, part of which is held apart.

    from_scratch: begin with random weights of the model's shape. lora_rank: train low-rank changes of all
    matrices of the blocks instead, which are added to the weights at the end. state: see `learn`. Raises
    OutputExistsError, SpecError, DataError, DivergedError.
    """
    if from_scratch and lora_rank is not None:
        raise SpecError("adapters change what a model knows: leave out either them or the random beginning")
    learning, target, checkpoint = learning or Learning(), Path(out), Checkpoint.open(model)
    check_output(target, force)
    each = BYTES_A_WEIGHT if lora_rank is None else FROZEN_BYTES_A_WEIGHT
    check_memory("training", count_parameters(checkpoint.config), each)
    length = length_of(learning.sequence_tokens, checkpoint)
    wanted = Wanted(length, learning.blocks(1), learning.seed)
    with TemporaryDirectory() as scratch, torch_threads(threads):
        texts = gather_texts(checkpoint, data, wanted, Path(scratch), say=say, progress=progress)
        before = measured(checkpoint, texts.report)
        trainable, rate = beginning(checkpoint, length, from_scratch, lora_rank, learning.seed)
        if from_scratch:
            before = random_side(before, trainable, texts.report)
        batches = BlockBatches(texts.learn, length, learning.batch, learning.seed)

        def batch(number: int) -> Tensor:
            return torch.from_numpy(batches(number))

        task = Task(trainable, batch, next_token_objective(trainable), evaluation(trainable, texts.stop))
        rate /= checkpoint.config.hidden_size
        learned = learn(task, learning, rate, length, state=state, say=say, progress=progress)
        written = publish(target, checkpoint.config, trainable.tensors(), checkpoint, force=force)
        after = measured(written, texts.report)
    return Shaped(
        path=str(out),
        before=before,
        after=after,
        held_tokens=texts.report[:, 1:].size,
        seconds=learned.seconds,
        steps=learned.steps,
        tokens_trained=learned.tokens,
    )


def beginning(
    checkpoint: Checkpoint, length: int, from_scratch: bool, lora_rank: int | None, seed: int
) -> tuple[TrainableModel, float]:
    """What is trained, and its learning rate times the hidden size."""
    if from_scratch:
        return random_model(checkpoint.config, length, seed), SCRATCH_RATE
    if lora_rank is None:
        return TrainableModel.of(checkpoint, length), TUNING_RATE
    matrices = matrices_of(checkpoint.config)
    adapters = AdapterConfig(matrices=matrices, rank=lora_rank, alpha=2.0 * lora_rank, seed=seed)
    return adapt(checkpoint, length, adapters), ADAPTER_RATE


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
