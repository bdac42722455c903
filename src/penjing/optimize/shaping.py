"""What pruning, distilling, transferring and training have in common: a checkpoint before, another after."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact.config import ModelConfig, count_parameters, expected_tensors
from penjing.artifact.staging import StagingDirectory
from penjing.errors import NonFiniteActivationError, SpecError
from penjing.measure.machine import usable_memory_bytes
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.models.weights_file import objection_to_replacing
from penjing.models.writing import write_checkpoint
from penjing.optimize.order import Order, Shaped, Side
from penjing.optimize.texts import Texts, Wanted, gather_texts
from penjing.spec import FloatFormat
from penjing.training.objectives import next_token_loss
from penjing.training.reports import peak_memory_bytes

BATCH = 4  # blocks whose logits are in memory together
LENGTH = 256  # tokens of a sequence that models are judged by

Made = tuple[ModelConfig, Mapping[str, Tensor]]


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """So many threads in torch for a while; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_output(out: Path, force: bool) -> None:
    """Raise OutputExistsError now, and not after an hour's work."""
    StagingDirectory(out, force=force, objection=objection_to_replacing).check_target()


def check_memory(what: str, parameters: int, bytes_each: int) -> None:
    """Raise SpecError for models that do not fit into memory, as floats with what belongs to them."""
    needed, usable = parameters * bytes_each, usable_memory_bytes()
    if needed > usable:
        raise SpecError(
            f"{what} {parameters / 1e6:,.0f} million parameters takes {needed / 1e9:,.1f} GB of memory, and "
            f"there are {usable / 1e9:,.1f}: take a smaller model, or a machine with more"
        )


def length_of(wanted: int, *models: Checkpoint) -> int:
    """Inputs of a block: what is wanted, or what the models can read."""
    return min(wanted, *(model.config.max_positions for model in models))


def own_format(checkpoint: Checkpoint) -> FloatFormat:
    """The dtype of a checkpoint, fp32 where its matrices differ."""
    roles = expected_tensors(checkpoint.config)
    formats = {checkpoint.formats.get(name, "fp32") for name, role in roles.items() if role.is_matrix}
    return formats.pop() if len(formats) == 1 else "fp32"


def float_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor by canonical name, float32."""
    return {name: tensor_of(checkpoint.read(name)).float() for name in expected_tensors(checkpoint.config)}


def streamed(checkpoint: Checkpoint, length: int) -> TorchModel:
    """A checkpoint as a model that is read block by block, whenever it is called."""
    return TorchModel(checkpoint.config, lambda name: tensor_of(checkpoint.read(name)), length)


def publish(order: Order, config: ModelConfig, tensors: Mapping[str, Tensor], like: Checkpoint) -> Checkpoint:
    """Write a checkpoint in the dtype of another, and read it back."""
    dtype = own_format(like)
    return write_checkpoint(order.out, config, tensors, like=like, dtype=dtype, force=order.force)


def measured(checkpoint: Checkpoint, blocks: NDArray[np.int64]) -> Side:
    """A checkpoint's side, read block by block; blocks: int64 [n, length + 1]."""
    zeros, weights = 0, 0

    def read(name: str) -> Tensor:
        nonlocal zeros, weights
        tensor = tensor_of(checkpoint.read(name))
        if name.startswith("blocks.") and tensor.ndim == 2:
            weights += tensor.numel()
            zeros += tensor.numel() - int(torch.count_nonzero(tensor))
        return tensor

    loss = held_loss(checkpoint.config, read, blocks)
    return Side(
        parameters=count_parameters(checkpoint.config),
        tensor_bytes=checkpoint.tensor_bytes,
        loss=loss,
        zeros=zeros / max(weights, 1),
    )


@torch.no_grad()
def held_loss(config: ModelConfig, read: Callable[[str], Tensor], blocks: NDArray[np.int64]) -> float:
    """The mean NLL of the next token, nats; every tensor of a block is read once. Raises as it is read.

    A loss of NaN or Inf is a model that is broken: NonFiniteActivationError.
    """
    model = TorchModel(config, read, blocks.shape[1] - 1)
    tokens = torch.from_numpy(blocks)
    inputs, targets = torch.split(tokens[:, :-1], BATCH), torch.split(tokens[:, 1:], BATCH)
    hidden = [model.embed(chunk) for chunk in inputs]
    for index in range(len(config.blocks)):
        block, weights = model.block(index), model.block_weights(index)
        hidden = [block(weights, chunk) for chunk in hidden]
    total = 0.0
    for chunk, goals in zip(hidden, targets, strict=True):
        total += next_token_loss(model.logits(chunk), goals).item() * len(goals)
    loss = total / len(blocks)
    if not math.isfinite(loss):
        raise NonFiniteActivationError("the model computes NaN or Inf on the text held apart: it is damaged")
    return loss


def result(out: Path, before: Side, after: Side, texts: Texts, seconds: float = 0.0) -> Shaped:
    """What there is to say of a checkpoint that was written."""
    return Shaped(
        path=str(out),
        before=before,
        after=after,
        held_tokens=texts.report[:, 1:].size,
        text=texts.hash,
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
    )


def reshape(checkpoint: Checkpoint, order: Order, sequences: int, make: Callable[[Tensor], Made]) -> Shaped:
    """Write what `make` gives for tokens int64 [sequences, length], and measure before and after.

    Nothing is trained. Raises DataError, and what `make` raises.
    """
    wanted = Wanted(length_of(LENGTH, checkpoint), sequences, order.seed)
    with TemporaryDirectory() as scratch, torch_threads(order.threads):
        texts = gather_texts(checkpoint, order, wanted, Path(scratch))
        before = measured(checkpoint, texts.report)
        started = time.monotonic()
        config, tensors = make(torch.from_numpy(texts.sequences(sequences)))
        seconds = time.monotonic() - started
        after = measured(publish(order, config, tensors, checkpoint), texts.report)
    return result(order.out, before, after, texts, seconds)
