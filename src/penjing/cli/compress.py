"""The command that takes a whole recipe: prune, transfer, distill, train, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.options import Checkpoint, Force, Json, Out, Threads
from penjing.cli.shaped import EVALUATE, Texts, print_shaped, require_torch
from penjing.cli.show import megabytes, percent, print_json, progress_bar, say


def compress(
    model: Checkpoint,
    out: Out,
    recipe: Annotated[Path, typer.Option(help="YAML or JSON file of the steps, in their order.")],
    data: Texts = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
    threads: Threads = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Take the steps of a recipe: prune, transfer, distill, train, and quantize at the end.

    Students learn from MODEL itself. What comes of a recipe that ends with quantize is an artifact, which
    `penjing evaluate` compares with MODEL; without, a checkpoint.
    """
    require_torch("recipes of several steps")
    from penjing.optimize.recipes import apply_recipe
    from penjing.spec import read_recipe

    with progress_bar() as progress:
        done = apply_recipe(
            model,
            out,
            read_recipe(recipe),
            data or (),
            resume=resume,
            force=force,
            threads=threads,
            say=say,
            progress=progress,
        )
    if as_json:
        print_json(done.model_dump(mode="json"))
        return
    for number, (step, shaped) in enumerate(zip(done.recipe.shaping, done.shaped, strict=True)):
        print_shaped(f"{number + 1} · {step.step}", shaped)
    ratio = percent(done.tensor_bytes / done.checkpoint_bytes)
    print(f"wrote {done.path}: {megabytes(done.tensor_bytes)} of tensors, {ratio} of the checkpoint; next:")
    print(f"  {EVALUATE.format(out=done.path, model=model)}")
