"""Commands that make another checkpoint of one: prune, distill, transfer, train."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.options import Checkpoint, Force, Json, Out, Seed, Threads
from penjing.cli.show import megabytes, percent, print_json, print_table, progress_bar
from penjing.errors import MissingExtraError, SpecError

if TYPE_CHECKING:  # the packages behind them take time to load
    from penjing.optimize.learning import Learning
    from penjing.optimize.shaping import Shaped
    from penjing.prune.structured import StructuredPruning
    from penjing.prune.walk import UnstructuredPruning


class ImportanceName(StrEnum):
    """What tells how much a unit is worth."""

    activation = "activation"
    gradient = "gradient"


class PruneMethod(StrEnum):
    """How single weights are chosen."""

    sparsegpt = "sparsegpt"
    wanda = "wanda"
    magnitude = "magnitude"


class LossName(StrEnum):
    """What a student is to make small."""

    kl = "kl"
    reverse = "reverse"
    js = "js"


LOSSES = {LossName.kl: "kl", LossName.reverse: "reverse_kl", LossName.js: "js"}
AXES = ("groups", "channels", "hidden", "blocks")
Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        help="Text, more than once if you like: .txt, .jsonl, .parquet or a directory. "
        "Default: built-in text and text that a model writes itself.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="How many steps. Default: 200.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Or how long; the steps that fit are taken.")]
Rate = Annotated[
    float | None, typer.Option(help="Of AdamW, at its highest. Default: by the width of the model.")
]
Batch = Annotated[int, typer.Option(min=1, help="Sequences in a step.")]
SequenceTokens = Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")]
State = Annotated[
    Path | None,
    typer.Option(help="Directory where the run is saved every few minutes, and from which it goes on."),
]


def prune(
    model: Checkpoint,
    out: Out,
    fraction: Annotated[
        float | None, typer.Option(help="Part of the blocks' parameters to take out whole. Default: 0.25.")
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            help="Units to take: groups (of heads), channels, hidden, blocks. Default: groups,channels."
        ),
    ] = None,
    importance: Annotated[
        ImportanceName | None, typer.Option(help="What judges units. Default: activation.")
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Set this part of the weights to 0 instead, and keep the shape.")
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
    """Take whole heads and channels out of a checkpoint, or set single weights of it to 0.

    Nothing is trained. What is left is a checkpoint again: smaller with --fraction, of the same size with
    --sparsity or --pattern, whose zeros are for programs that can skip them.
    """
    require_torch("pruning")
    from penjing.optimize.pruning import prune as run

    pruning = chosen_pruning(fraction, axes, importance, sparsity, pattern, method)
    with progress_bar() as progress:
        shaped = run(
            model,
            out,
            pruning,
            data or (),
            seed=seed,
            force=force,
            threads=threads,
            say=say,
            progress=progress,
        )
    show(shaped, [HEAL, QUANTIZE] if not (sparsity or pattern) else [EVALUATE], model, as_json)


def chosen_pruning(
    fraction: float | None,
    axes: str | None,
    importance: ImportanceName | None,
    sparsity: float | None,
    pattern: str | None,
    method: PruneMethod | None,
) -> StructuredPruning | UnstructuredPruning:
    """Whole units or single weights, never both. Raises SpecError."""
    from penjing.prune.patterns import Sparsity
    from penjing.prune.structured import StructuredPruning
    from penjing.prune.walk import UnstructuredPruning
    from penjing.spec import validate

    if sparsity is None and pattern is None:
        if method is not None:
            raise SpecError("--method is for single weights: give --sparsity or --pattern with it")
        given = {"fraction": fraction, "importance": importance and importance.value}
        wanted: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        if axes is not None:
            wanted["shrinking"] = {"axes": chosen_axes(axes)}
        return validate(StructuredPruning, wanted, "prune")
    if (fraction, axes, importance) != (None, None, None):
        raise SpecError("--sparsity and --pattern keep the shape: leave out --fraction, --axes, --importance")
    if sparsity is not None and pattern is not None:
        raise SpecError("--sparsity and --pattern: give one of them")
    if sparsity is not None and not 0 < sparsity < 1:
        raise SpecError(f"--sparsity {sparsity}: give the part that becomes 0, between 0 and 1")
    if pattern is not None and ":" not in pattern:
        raise SpecError(f"--pattern {pattern!r}: write it as 2:4, to keep 2 of every 4")
    kept = Sparsity.of(pattern) if pattern is not None else Sparsity(keep=1 - (sparsity or 0.0))
    return UnstructuredPruning(method=(method or PruneMethod.sparsegpt).value, sparsity=kept)


def chosen_axes(text: str) -> list[str]:
    """Names between commas. Raises SpecError for one that is unknown."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in AXES:
            raise SpecError(f"--axes {name!r}: choose among {', '.join(AXES)}")
    return names


def distill(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="Checkpoint directory of the model that learns.")
    ],
    teacher: Annotated[str, typer.Option(help="Checkpoint that it learns from; of the same tokenizer.")],
    out: Out,
    steps: Steps = None,
    minutes: Minutes = None,
    learning_rate: Rate = None,
    loss: Annotated[
        LossName,
        typer.Option(help="kl: cover what the teacher says; reverse: say nothing else; js: between."),
    ] = LossName.kl,
    store: Annotated[
        Path | None,
        typer.Option(help="Directory of the teacher's knowledge: written once, then used instead of it."),
    ] = None,
    data: Texts = None,
    batch: Batch = 8,
    sequence_tokens: SequenceTokens = 256,
    state: State = None,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Teach a small model what a larger one says, token by token.

    A student that was pruned or transferred from its teacher learns back most of what that cost.
    """
    require_torch("distilling")
    from penjing.distill.losses import DistillationLoss
    from penjing.optimize.distilling import distill as run
    from penjing.spec import validate

    with progress_bar() as progress:
        shaped = run(
            student,
            teacher,
            out,
            chosen_learning(steps, minutes, learning_rate, batch, sequence_tokens, state, seed),
            data or (),
            loss=validate(DistillationLoss, {"kind": LOSSES[loss]}, "distill"),
            store=store,
            state=state,
            force=force,
            threads=threads,
            say=say,
            progress=progress,
        )
    show(shaped, [QUANTIZE], teacher, as_json)


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
        float | None,
        typer.Option(
            help="At most so many, in the model's proportions: 0.5 for half, or a number. Default: 0.5, if "
            "no size is given."
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
    from penjing.optimize.transferring import Shape
    from penjing.optimize.transferring import transfer as run
    from penjing.spec import validate

    sizes = {"layers": layers, "hidden": hidden, "intermediate": intermediate, "heads": heads}
    wanted = {**sizes, "parameters": parameters}
    shape = validate(Shape, wanted, "transfer") if any(wanted.values()) else None
    with progress_bar() as progress:
        shaped = run(
            model,
            out,
            shape,
            data or (),
            seed=seed,
            force=force,
            threads=threads,
            say=say,
            progress=progress,
        )
    is_larger = shaped.after.parameters > shaped.before.parameters
    show(shaped, [TRAIN] if is_larger else [HEAL, QUANTIZE], model, as_json)


def train(
    model: Checkpoint,
    out: Out,
    data: Annotated[
        list[Path],
        typer.Option(
            help="Text to learn from, more than once if you like: .txt, .jsonl, .parquet or a directory."
        ),
    ],
    steps: Steps = None,
    minutes: Minutes = None,
    learning_rate: Rate = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights of the model's shape.")
    ] = False,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train changes of this rank instead of all weights, and add them at the end."
        ),
    ] = None,
    batch: Batch = 8,
    sequence_tokens: SequenceTokens = 256,
    state: State = None,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a checkpoint on text of yours, by the next token; part of it is held apart to measure on."""
    require_torch("training")
    from penjing.optimize.training import train as run

    with progress_bar() as progress:
        shaped = run(
            model,
            out,
            data,
            chosen_learning(steps, minutes, learning_rate, batch, sequence_tokens, state, seed),
            from_scratch=from_scratch,
            lora_rank=lora,
            state=state,
            force=force,
            threads=threads,
            say=say,
            progress=progress,
        )
    show(shaped, [QUANTIZE], model, as_json)


def chosen_learning(
    steps: int | None,
    minutes: float | None,
    learning_rate: float | None,
    batch: int,
    sequence_tokens: int,
    state: Path | None,
    seed: int,
) -> Learning:
    """How long and how fast. Raises SpecError."""
    from penjing.optimize.learning import Learning
    from penjing.spec import validate

    if minutes is not None and state is not None:
        raise SpecError("--state goes on with a run of so many --steps: give those, and no --minutes")
    given = {"steps": steps, "minutes": minutes, "learning_rate": learning_rate}
    return validate(
        Learning, {**given, "batch": batch, "sequence_tokens": sequence_tokens, "seed": seed}, "learning"
    )


def require_torch(purpose: str) -> None:
    """Raises MissingExtraError without torch, which only the workshop needs."""
    if find_spec("torch") is None:
        raise MissingExtraError("optimize", "torch", purpose)


def say(line: str) -> None:
    """A line about the work."""
    print(f"penjing: {line}", file=sys.stderr)


HEAL = "penjing distill {out} --teacher {model} -o HEALED   # learn back what was lost"
QUANTIZE = "penjing quantize {out} -o TRAY   # and fewer bits for every weight"
EVALUATE = "penjing evaluate {out} --against {model}   # what that costs, as served"
TRAIN = "penjing train {out} --data TEXT -o TRAINED   # it has room to learn now"


def show(shaped: Shaped, next_commands: list[str], model: str, as_json: bool) -> None:
    """What is smaller, what it cost, and what to run next."""
    if as_json:
        print_json(shaped.model_dump(mode="json") | {"tokens_per_second": shaped.tokens_per_second})
        return
    print_table("Before and after", *shaped_rows(shaped))
    print(f"losses: nats per token, on {shaped.held_tokens:,} tokens that nothing was learned from")
    print(f"{pace(shaped)}wrote {shaped.path}; next:")
    for command in next_commands:
        print(f"  {command.format(out=shaped.path, model=model)}")


def shaped_rows(shaped: Shaped) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; a teacher has a column of its own."""
    sides = [shaped.before, shaped.after] + ([shaped.teacher] if shaped.teacher else [])
    columns = ["", "before", "after"] + (["teacher"] if shaped.teacher else [])
    rows = [
        ["Parameters", *(f"{side.parameters:,}" for side in sides)],
        ["Tensor bytes", *(megabytes(side.tensor_bytes) for side in sides)],
        ["Loss", *(f"{side.loss:.4f}" for side in sides)],
    ]
    if shaped.teacher is not None:
        rows.append(["KL from the teacher", *("" if side.kl is None else f"{side.kl:.4f}" for side in sides)])
    if any(side.zeros > 0.001 for side in sides):
        rows.append(["Weights of blocks that are 0", *(percent(side.zeros) for side in sides)])
    return columns, rows


def pace(shaped: Shaped) -> str:
    """What it took."""
    if shaped.tokens_per_second is None:
        return f"{shaped.seconds:,.0f} seconds; "
    return (
        f"{shaped.steps:,} steps, {shaped.tokens_trained:,} tokens in {shaped.seconds / 60:,.1f} minutes "
        f"({shaped.tokens_per_second:,.0f} tokens/s); "
    )
