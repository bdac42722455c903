"""`penjing transfer`: a smaller or a larger model that begins with what another one has learned."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig, count_parameters
from penjing.errors import SpecError
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel
from penjing.optimize.order import Order, Shaped
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.shaping import Made, check_memory, check_output, float_tensors, reshape
from penjing.spec import TransferStep
from penjing.transfer.growth import grow
from penjing.transfer.importance import measure_importance
from penjing.transfer.structure import resized, transfer_structure
from penjing.transfer.subclone import subclone

SEQUENCES = 32  # that units are judged on, at once
BYTES_A_WEIGHT = 8  # the source in floats, and what importance takes


def target_config(step: TransferStep, source: ModelConfig) -> ModelConfig:
    """What a model becomes. Raises SpecError for a shape that is no model, or the source's own."""
    if step.parameters is None:
        target = sized(step, source)
    else:  # above 1 in elements
        whole = count_parameters(source) if step.parameters <= 1 else 1
        target = transfer_structure(source, int(step.parameters * whole))
    if target == source:
        raise SpecError("the target has the shape of the source: nothing would change")
    return target


def sized(step: TransferStep, source: ModelConfig) -> ModelConfig:
    """With the step's sizes; of blocks that differ, the chosen ones are spread evenly."""
    depth, last = step.layers or len(source.blocks), len(source.blocks) - 1
    places = [round(last * index / max(depth - 1, 1)) for index in range(depth)]
    blocks = tuple(sized_block(step, source.blocks[place]) for place in places)
    return resized(source, step.hidden or source.hidden_size, blocks)


def sized_block(step: TransferStep, source: BlockConfig) -> BlockConfig:
    """A block with the step's widths."""
    heads = step.heads or source.num_heads
    groups = Fraction(source.num_kv_heads * heads, source.num_heads)
    if source.num_kv_heads == 1:
        groups = Fraction(1)
    if groups.denominator != 1 or heads % groups.numerator:
        shared = source.num_heads // source.num_kv_heads
        raise SpecError(f"{heads} heads cannot share keys by {shared}, as the source's do: a multiple can")
    widths = {
        "num_heads": heads,
        "num_kv_heads": groups.numerator,
        "intermediate_size": step.intermediate or source.intermediate_size,
    }
    return source.model_copy(update=widths)


def transfer(
    model: str | Path,
    out: str | Path,
    step: TransferStep | None = None,
    data: Sequence[Path] = (),
    *,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    say: Say = silent,
    progress: Progress = silent,
) -> Shaped:
    """Write a checkpoint of another shape: subcloned if smaller, with the same logits if larger.

    step: None halves the parameters. data: texts to judge units by; without, the built-in one and one that
    the model writes itself. Nothing is trained. Raises OutputExistsError, DataError, and SpecError for a
    target that is smaller in some sizes and larger in others, or that has no such beginning.
    """
    order = Order(Path(out), data, seed, force, threads, say, progress)
    return transferred(model, step or TransferStep(), order)


def transferred(model: str | Path, step: TransferStep, order: Order) -> Shaped:
    """As `transfer`."""
    checkpoint = Checkpoint.open(model)
    config = target_config(step, checkpoint.config)
    check_output(order.out, order.force)
    elements = max(count_parameters(checkpoint.config), count_parameters(config))
    check_memory("transferring", elements, BYTES_A_WEIGHT)

    def make(tokens: Tensor) -> Made:
        tensors = float_tensors(checkpoint)
        order.progress("judge and copy", 0, 1)
        if is_larger(config, checkpoint.config):
            tensors = grow(checkpoint.config, tensors, config, seed=order.seed)
        else:
            reading = TorchModel(checkpoint.config, tensors.__getitem__, tokens.shape[1])
            tensors = subclone(checkpoint.config, tensors, config, measure_importance(reading, tokens))
        order.progress("judge and copy", 1, 1)
        return config, tensors

    return reshape(checkpoint, order, SEQUENCES, make)


def is_larger(target: ModelConfig, source: ModelConfig) -> bool:
    """Whether a target is larger in any size; what is smaller in others is then refused by `grow`."""
    return (
        target.hidden_size > source.hidden_size
        or len(target.blocks) > len(source.blocks)
        or any(
            mine.num_heads > theirs.num_heads or mine.intermediate_size > theirs.intermediate_size
            for mine, theirs in zip(target.blocks, source.blocks, strict=False)
        )
    )
