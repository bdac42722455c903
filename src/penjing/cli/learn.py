"""Commands that train a checkpoint: distill, train."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.options import Checkpoint, Force, Json, Out, Seed, Threads
from penjing.cli.shaped import QUANTIZE, Texts, ordered, require_torch, show


class LossName(StrEnum):
    """What a student is to make small."""

    kl = "kl"
    reverse = "reverse"
    js = "js"


LOSSES = {LossName.kl: "kl", LossName.reverse: "reverse_kl", LossName.js: "js"}
Steps = Annotated[int | None, typer.Option(min=1, help="How many steps. Default: 200.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="Or how long; the steps that fit are taken.")]
Rate = Annotated[
    float | None,
    typer.Option(help="At its highest. Default: 0.003 to distil, 0.001 to train."),
]
Batch = Annotated[int, typer.Option(min=1, help="Sequences in a step.")]
SequenceTokens = Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")]
State = Annotated[
    Path | None,
    typer.Option(help="Directory where the run is saved every few minutes, and from which it goes on."),
]


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
    from penjing.optimize.distilling import distilled
    from penjing.spec import DistillStep, validate

    pace = paced(steps, minutes, learning_rate, batch, sequence_tokens)
    step = validate(DistillStep, {**pace, "loss": LOSSES[loss]}, "distill")
    with ordered(out, data, seed, force, threads) as order:
        shaped = distilled(student, teacher, step, order, state=state, store=store)
    show(shaped, [QUANTIZE], teacher, as_json)


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
    from penjing.optimize.training import trained
    from penjing.spec import TrainStep, validate

    pace = paced(steps, minutes, learning_rate, batch, sequence_tokens)
    step = validate(TrainStep, {**pace, "lora_rank": lora, "from_scratch": from_scratch}, "train")
    with ordered(out, data, seed, force, threads) as order:
        shaped = trained(model, step, order, state)
    show(shaped, [QUANTIZE], model, as_json)


def paced(
    steps: int | None, minutes: float | None, learning_rate: float | None, batch: int, sequence_tokens: int
) -> dict[str, object]:
    """How long and how fast, as a step says it."""
    given = {"steps": steps, "minutes": minutes, "learning_rate": learning_rate}
    return {**given, "batch": batch, "sequence_tokens": sequence_tokens}
