"""`penjing train`: a checkpoint goes on learning from text, whole, by adapters, or from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from penjing.artifact.config import ModelConfig, block_tensors, count_parameters
from penjing.data.batches import BlockBatches
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel, random_model
from penjing.optimize.learning import BYTES_A_WEIGHT, Learning, evaluation, muon
from penjing.optimize.order import Order, Shaped, Side
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.shaping import check_memory, check_output, held_loss
from penjing.optimize.texts import Texts
from penjing.spec import TrainStep
from penjing.training.loop import Task
from penjing.training.objectives import next_token_objective
from penjing.training.optimizers import AdamW, OptimizerConfig
from penjing.transfer.adapters import AdapterConfig, adapt

TUNING_RATE, SCRATCH_RATE = 0.001, 0.01  # of Muon, for a trained model and for one that knows nothing
FROZEN_BYTES_A_WEIGHT = 12  # a float, the same with its change, and the copy that was best
ADAPTER_RATE = 1.0  # of AdamW, times the width


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
    order = Order(Path(out), data, seed, force, threads, say, progress)
    return trained(model, step or TrainStep(), order, state)


def trained(model: str | Path, step: TrainStep, order: Order, state: Path | None = None) -> Shaped:
    """As `train`."""
    checkpoint = Checkpoint.open(model)
    check_output(order.out, order.force)
    each = BYTES_A_WEIGHT if step.lora_rank is None else FROZEN_BYTES_A_WEIGHT
    check_memory("training", count_parameters(checkpoint.config), each)
    return Training(checkpoint, step, order, state).learned()


@dataclass(frozen=True, eq=False)
class Training(Learning[Tensor]):
    """A checkpoint that learns the next token."""

    step: TrainStep

    def beginning(self) -> tuple[TrainableModel, OptimizerConfig]:
        """The checkpoint, its adapters, or random weights."""
        config, seed, rank = self.checkpoint.config, self.order.seed, self.step.lora_rank
        width, asked = config.hidden_size, self.step.learning_rate
        if self.step.from_scratch:
            return random_model(config, self.length, seed), muon(asked or SCRATCH_RATE, width)
        if rank is None:
            return TrainableModel.of(self.checkpoint, self.length), muon(asked or TUNING_RATE, width)
        adapters = AdapterConfig(matrices=matrices_of(config), rank=rank, alpha=2.0 * rank, seed=seed)
        optimizer = AdamW(learning_rate=asked or ADAPTER_RATE / width)
        return adapt(self.checkpoint, self.length, adapters), optimizer

    def task(self, model: TrainableModel, texts: Texts) -> Task[Tensor]:
        """Batches of text."""
        batches = BlockBatches(texts.learn, self.length, self.step.batch, self.order.seed)

        def batch(number: int) -> Tensor:
            return torch.from_numpy(batches(number))

        return Task(model, batch, next_token_objective(model), evaluation(model, texts.stop))

    def side(self, checkpoint: Checkpoint, texts: Texts) -> Side:
        """From scratch, what it was is a random model of its shape."""
        side = super().side(checkpoint, texts)
        if checkpoint is not self.checkpoint or not self.step.from_scratch:
            return side
        model = random_model(checkpoint.config, self.length, self.order.seed)
        loss = held_loss(model.config, model.tensor, texts.report)
        return side.model_copy(update={"loss": loss, "zeros": 0.0})


def matrices_of(config: ModelConfig) -> tuple[str, ...]:
    """The matrices of all blocks by their names inside, each once; of experts too, but of no router."""
    names = [
        name
        for block in config.blocks
        for name, role in block_tensors(config, block).items()
        if role.is_matrix and not role.keeps_dtype
    ]
    return tuple(dict.fromkeys(names))
