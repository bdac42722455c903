"""Commands that make a checkpoint of another shape, and train nothing: prune, transfer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from penjing.cli.options import Checkpoint, Force, Json, Out, Seed, Threads
from penjing.cli.shaped import EVALUATE, HEAL, QUANTIZE, TRAIN, Texts, ordered, require_torch, show


class ImportanceName(StrEnum):
    """What tells how much a unit is worth."""

    activation = "activation"
    gradient = "gradient"


class PruneMethod(StrEnum):
    """How single weights are chosen."""

    sparsegpt = "sparsegpt"
    wanda = "wanda"
    magnitude = "magnitude"


def prune(
    model: Checkpoint,
    out: Out,
    fraction: Annotated[
        str | None, typer.Option(help="Part of the blocks' parameters to take out whole. Default: 25%.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="Units to take: channels, groups (of heads), hidden, blocks. Default: channels."),
    ] = None,
    importance: Annotated[
        ImportanceName | None, typer.Option(help="What judges units. Default: gradient.")
    ] = None,
    sparsity: Annotated[
        str | None, typer.Option(help="Set this part of the weights to 0 instead, and keep the shape.")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Or keep N of every M weights: 2:4, 4:8.")] = None,
    method: Annotated[
        PruneMethod | None, typer.Option(help="How those weights are chosen. Default: sparsegpt.")
    ] = None,
    data: Texts = None,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Take whole channels (or heads, widths, blocks) out of a checkpoint, or set single weights of it to 0.

    Nothing is trained. What is left is a checkpoint again: smaller with --fraction, of the same size with
    --sparsity or --pattern, whose zeros are for programs that can skip them.
    """
    require_torch("pruning")
    from penjing.optimize.pruning import pruned
    from penjing.spec import PruneStep, validate

    wanted = {
        "fraction": fraction,
        "axes": None if axes is None else [name.strip() for name in axes.split(",")],
        "importance": importance,
        "sparsity": sparsity,
        "pattern": pattern,
        "method": method,
    }
    step = validate(PruneStep, wanted, "prune")
    with ordered(out, data, seed, force, threads) as order:
        shaped = pruned(model, step, order)
    show(shaped, [HEAL, QUANTIZE] if step.method is None else [EVALUATE], model, as_json)


def transfer(
    model: Checkpoint,
    out: Out,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Width of the residual stream.")] = None,
    intermediate: Annotated[int | None, typer.Option(min=1, help="Width of the feed-forwards.")] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Heads of a block; those of keys and values follow.")
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(
            help="At most so many, in the model's proportions: 50%, or a number. Default: 50%, if no size is "
            "given."
        ),
    ] = None,
    data: Texts = None,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Begin a model of another size with what this one knows: its most important units, or copies of them.

    A smaller one has to learn before it is of use, and learns much faster than from scratch; a larger one
    computes at first what the small one did.
    """
    require_torch("transferring")
    from penjing.optimize.transferring import transferred
    from penjing.spec import TransferStep, validate

    sizes = {"layers": layers, "hidden": hidden, "intermediate": intermediate, "heads": heads}
    step = validate(TransferStep, {**sizes, "parameters": parameters}, "transfer")
    with ordered(out, data, seed, force, threads) as order:
        shaped = transferred(model, step, order)
    is_larger = shaped.after.parameters > shaped.before.parameters
    show(shaped, [TRAIN] if is_larger else [HEAL, QUANTIZE], model, as_json)
