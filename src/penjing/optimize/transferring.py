"""`penjing transfer`: a smaller or a larger model that begins with what another one has learned."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from pydantic import Field
from torch import Tensor

from penjing.artifact.config import BlockConfig, ModelConfig, count_parameters
from penjing.errors import SpecError
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel
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
from penjing.spec import Spec
from penjing.transfer.growth import grow
from penjing.transfer.importance import measure_importance
from penjing.transfer.structure import resized, transfer_structure
from penjing.transfer.subclone import subclone

SEQUENCES = 32  # that units are judged on, at once
BYTES_A_WEIGHT = 8  # the source in floats, and what importance takes


class Shape(Spec):
    """What a model should become; None keeps what the source has.

    heads: of queries; key-value heads follow. parameters: a limit, above 1 in elements, else as a part of the
    source's; it says everything, so that the others go without it.
    """

    layers: int | None = Field(default=None, gt=0)
    hidden: int | None = Field(default=None, gt=0)
    intermediate: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    parameters: float | None = Field(default=None, gt=0)

    def config(self, source: ModelConfig) -> ModelConfig:
        """The target's configuration. Raises SpecError for a shape that is no model, or the source's own."""
        sizes = (self.layers, self.hidden, self.intermediate, self.heads)
        if self.parameters is not None and any(sizes):
            raise SpecError(
                "parameters say everything: give them without layers, hidden, intermediate, heads"
            )
        if self.parameters is None and not any(sizes):
            raise SpecError("nothing is to change: give layers, hidden, intermediate, heads, or parameters")
        target = self.limited(source) if self.parameters is not None else self.sized(source)
        if target == source:
            raise SpecError("the target has the shape of the source: nothing would change")
        return target

    def limited(self, source: ModelConfig) -> ModelConfig:
        """Within the number of parameters, in the source's proportions."""
        assert self.parameters is not None
        whole = count_parameters(source)
        limit = int(self.parameters * whole) if self.parameters <= 1 else int(self.parameters)
        return transfer_structure(source, limit)

    def sized(self, source: ModelConfig) -> ModelConfig:
        """With these sizes; of blocks that differ, the chosen ones are spread evenly."""
        depth, last = self.layers or len(source.blocks), len(source.blocks) - 1
        places = [round(last * index / max(depth - 1, 1)) for index in range(depth)]
        blocks = tuple(self.block(source.blocks[place]) for place in places)
        return resized(source, self.hidden or source.hidden_size, blocks)

    def block(self, source: BlockConfig) -> BlockConfig:
        """A block with these widths."""
        heads = self.heads or source.num_heads
        groups = Fraction(source.num_kv_heads * heads, source.num_heads)
        if source.num_kv_heads == 1:
            groups = Fraction(1)
        if groups.denominator != 1 or heads % groups.numerator:
            shared = source.num_heads // source.num_kv_heads
            raise SpecError(
                f"{heads} heads cannot share keys by {shared}, as the source's do: a multiple can"
            )
        widths = {
            "num_heads": heads,
            "num_kv_heads": groups.numerator,
            "intermediate_size": self.intermediate or source.intermediate_size,
        }
        return source.model_copy(update=widths)


def transfer(
    model: str | Path,
    out: str | Path,
    shape: Shape | None = None,
    data: Sequence[Path] = (),
    *,
    seed: int = 0,
    force: bool = False,
    threads: int | None = None,
    say: Say = say_nothing,
    progress: Progress = silent,
) -> Shaped:
    """Write a checkpoint of another shape: subcloned if smaller, with the same logits if larger.

    shape: None halves the parameters. data: texts to judge units by; without, the built-in one and one that
    the model writes itself. Nothing is trained. Raises OutputExistsError, DataError, and SpecError for a
    target that is smaller in some sizes and larger in others, or that has no such beginning.
    """
    checkpoint, target = Checkpoint.open(model), Path(out)
    config = (Shape(parameters=0.5) if shape is None else shape).config(checkpoint.config)
    check_output(target, force)
    elements = max(count_parameters(checkpoint.config), count_parameters(config))
    check_memory("transferring", elements, BYTES_A_WEIGHT)

    def make(tokens: Tensor) -> Made:
        tensors = float_tensors(checkpoint)
        progress("judge and copy", 0, 1)
        if is_larger(config, checkpoint.config):
            tensors = grow(checkpoint.config, tensors, config, seed=seed)
        else:
            reading = TorchModel(checkpoint.config, tensors.__getitem__, tokens.shape[1])
            tensors = subclone(checkpoint.config, tensors, config, measure_importance(reading, tokens))
        progress("judge and copy", 1, 1)
        return config, tensors

    reshaping = Reshaping(target, data, SEQUENCES, seed, force, threads)
    return reshape(checkpoint, reshaping, make, say=say, progress=progress)


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
