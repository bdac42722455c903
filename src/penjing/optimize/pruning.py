"""`penjing prune`: whole units out of a checkpoint, or single weights of it set to 0."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from penjing.artifact.config import ModelConfig, TensorRole, block_tensors
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, silent
from penjing.optimize.quantizing import Say, say_nothing
from penjing.optimize.shaping import (
    Shaped,
    check_memory,
    check_output,
    count_parameters,
    float_tensors,
    length_of,
    measured,
    publish,
    torch_threads,
)
from penjing.optimize.texts import Wanted, gather_texts
from penjing.prune.structured import StructuredPruning, prune_structured
from penjing.prune.walk import UnstructuredPruning, prune_checkpoint

LENGTH = 256  # tokens of a sequence
SEQUENCES = 64  # that weights and units are judged on
BYTES_A_WEIGHT = 20  # the model, a smaller one, and what judging by gradients takes


def prune(
    model: str | Path,
    out: str | Path,
    pruning: StructuredPruning | UnstructuredPruning | None = None,
    data: Sequence[Path] = (),
    *,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    say: Say = say_nothing,
    progress: Progress = silent,
) -> Shaped:
    """Write a pruned checkpoint; nothing is trained.

    pruning: None takes whole units, a quarter of every block. data: texts to judge by; without, the built-in
    one and one that the model writes itself. Raises OutputExistsError, SpecError for what cannot be removed
    or does not fit memory, UnsupportedConfigError for whole units of a model with experts, DataError.
    """
    pruning = StructuredPruning() if pruning is None else pruning
    checkpoint, target = Checkpoint.open(model), Path(out)
    check_output(target, force)
    check_memory("pruning", count_parameters(checkpoint.config), BYTES_A_WEIGHT)
    wanted = Wanted(length_of(LENGTH, checkpoint), SEQUENCES, seed)
    with TemporaryDirectory() as scratch, torch_threads(threads):
        texts = gather_texts(
            checkpoint, data, wanted, Path(scratch), threads=threads, say=say, progress=progress
        )
        before = measured(checkpoint, texts.report)
        tokens, started = torch.from_numpy(texts.sequences(SEQUENCES)), time.monotonic()
        if isinstance(pruning, StructuredPruning):
            progress("judge and remove", 0, 1)
            config, tensors = prune_structured(checkpoint.config, float_tensors(checkpoint), tokens, pruning)
            progress("judge and remove", 1, 1)
        else:
            config, tensors = checkpoint.config, zeroed(checkpoint, tokens, pruning, progress)
        seconds = time.monotonic() - started
        after = measured(publish(target, config, tensors, checkpoint, force=force), texts.report)
    return Shaped(
        path=str(out), before=before, after=after, held_tokens=texts.report[:, 1:].size, seconds=seconds
    )


def zeroed(
    checkpoint: Checkpoint, tokens: Tensor, pruning: UnstructuredPruning, progress: Progress
) -> dict[str, Tensor]:
    """Every tensor by canonical name, matrices of the blocks pruned."""
    tensors = float_tensors(checkpoint)
    total = sum(role.is_matrix and not role.keeps_dtype for role in block_roles(checkpoint.config))
    for done, (name, tensor) in enumerate(prune_checkpoint(checkpoint, tokens, pruning)):
        tensors[name] = tensor
        progress("prune", done + 1, total)
    return tensors


def block_roles(config: ModelConfig) -> Iterator[TensorRole]:
    """Every tensor of every block."""
    for block in config.blocks:
        yield from block_tensors(config, block).values()
