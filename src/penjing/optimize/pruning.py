"""`penjing prune`: whole units out of a checkpoint, or single weights of it set to 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from penjing.artifact.config import ModelConfig, TensorRole, block_tensors, count_parameters
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, silent
from penjing.optimize.quantizing import Say, say_nothing
from penjing.optimize.shaping import (
    Made,
    Reshaping,
    Shaped,
    check_memory,
    check_output,
    float_tensors,
    reshape,
)
from penjing.prune.structured import StructuredPruning, prune_structured
from penjing.prune.walk import UnstructuredPruning, prune_checkpoint

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
    pruning = pruning or StructuredPruning()
    checkpoint, target = Checkpoint.open(model), Path(out)
    check_output(target, force)
    check_memory("pruning", count_parameters(checkpoint.config), BYTES_A_WEIGHT)

    def make(tokens: Tensor) -> Made:
        if isinstance(pruning, UnstructuredPruning):
            return checkpoint.config, zeroed(checkpoint, tokens, pruning, progress)
        progress("judge and remove", 0, 1)
        made = prune_structured(checkpoint.config, float_tensors(checkpoint), tokens, pruning)
        progress("judge and remove", 1, 1)
        return made

    reshaping = Reshaping(target, data, SEQUENCES, seed, force, threads)
    return reshape(checkpoint, reshaping, make, say=say, progress=progress)


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
