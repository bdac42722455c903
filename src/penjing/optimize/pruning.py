"""`penjing prune`: whole units out of a checkpoint, or single weights of it set to 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from penjing.artifact.config import block_tensors, count_parameters
from penjing.models import Checkpoint
from penjing.optimize.order import Order, Shaped
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.shaping import Made, check_memory, check_output, float_tensors, reshape
from penjing.prune.patterns import Sparsity
from penjing.prune.plan import Shrinking
from penjing.prune.structured import StructuredPruning, prune_structured
from penjing.prune.walk import UnstructuredPruning, prune_checkpoint
from penjing.spec import PruneStep

SEQUENCES = 64  # that weights and units are judged on
BYTES_A_WEIGHT = 20  # the model, a smaller one, and what judging by gradients takes


def prune(
    model: str | Path,
    out: str | Path,
    step: PruneStep | None = None,
    data: Sequence[Path] = (),
    *,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    say: Say = silent,
    progress: Progress = silent,
) -> Shaped:
    """Write a pruned checkpoint; nothing is trained.

    step: None takes channels, a quarter of every block. data: texts to judge by; without, the built-in
    one and one that the model writes itself. Raises OutputExistsError, SpecError for what cannot be removed
    or does not fit memory, UnsupportedConfigError for whole units of a model with experts, DataError.
    """
    order = Order(Path(out), data, seed, force, threads, say, progress)
    return pruned(model, step or PruneStep(), order)


def pruned(model: str | Path, step: PruneStep, order: Order) -> Shaped:
    """As `prune`."""
    pruning = pruning_of(step)
    checkpoint = Checkpoint.open(model)
    check_output(order.out, order.force)
    check_memory("pruning", count_parameters(checkpoint.config), BYTES_A_WEIGHT)

    def make(tokens: Tensor) -> Made:
        if isinstance(pruning, UnstructuredPruning):
            return checkpoint.config, zeroed(checkpoint, tokens, pruning, order.progress)
        order.progress("judge and remove", 0, 1)
        made = prune_structured(checkpoint.config, float_tensors(checkpoint), tokens, pruning)
        order.progress("judge and remove", 1, 1)
        return made

    return reshape(checkpoint, order, SEQUENCES, make)


def pruning_of(step: PruneStep) -> StructuredPruning | UnstructuredPruning:
    """A step in the terms of what takes it. Raises SpecError for a pattern that is none."""
    if step.method is not None:
        pattern, part = step.pattern, step.sparsity
        kept = Sparsity.of(pattern) if pattern is not None else Sparsity(keep=1 - (part or 0.0))
        return UnstructuredPruning(method=step.method, sparsity=kept)
    given = step.model_dump(exclude={"step", "sparsity", "pattern", "method"})
    shrinking = Shrinking(**{name: given.pop(name) for name in Shrinking.model_fields})
    return StructuredPruning(shrinking=shrinking, **given)


def zeroed(
    checkpoint: Checkpoint, tokens: Tensor, pruning: UnstructuredPruning, progress: Progress
) -> dict[str, Tensor]:
    """Every tensor by canonical name, matrices of the blocks pruned."""
    tensors = float_tensors(checkpoint)
    config = checkpoint.config
    roles = [role for block in config.blocks for role in block_tensors(config, block).values()]
    total = sum(role.is_matrix and not role.keeps_dtype for role in roles)
    for done, (name, tensor) in enumerate(prune_checkpoint(checkpoint, tokens, pruning)):
        tensors[name] = tensor
        progress("prune", done + 1, total)
    return tensors
