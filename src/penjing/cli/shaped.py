"""What commands that make another checkpoint share: options, lines on the way, and the table at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.show import megabytes, percent, print_json, print_table, progress_bar, say
from penjing.errors import MissingExtraError

if TYPE_CHECKING:  # the package behind it takes time to load
    from penjing.optimize.order import Order, Shaped

Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        help="Text, more than once if you like: .txt, .jsonl, .parquet or a directory. "
        "Default: built-in text and text that a model writes itself.",
    ),
]
HEAL = "penjing distill {out} --teacher {model} -o HEALED   # learn back what was lost"
QUANTIZE = "penjing quantize {out} -o TRAY   # and fewer bits for every weight"
EVALUATE = "penjing evaluate {out} --against {model}   # what that costs, as served"
TRAIN = "penjing train {out} --data TEXT -o TRAINED   # it has room to learn now"


def require_torch(purpose: str) -> None:
    """Raises MissingExtraError without torch, which only the workshop needs."""
    if find_spec("torch") is None:
        raise MissingExtraError("optimize", "torch", purpose)


@contextmanager
def ordered(
    out: Path, data: list[Path] | None, seed: int, force: bool, threads: int | None
) -> Iterator[Order]:
    """What a command was told besides its step; while it works, a bar says how far it is."""
    from penjing.optimize.order import Order

    with progress_bar() as progress:
        yield Order(out, data or (), seed, force, threads, say, progress)


def show(shaped: Shaped, next_commands: list[str], model: str, as_json: bool) -> None:
    """What is smaller, what it cost, and what to run next."""
    if as_json:
        print_json(shaped.model_dump(mode="json") | {"tokens_per_second": shaped.tokens_per_second})
        return
    print_shaped("Before and after", shaped)
    print(f"wrote {shaped.path}; next:")
    for command in next_commands:
        print(f"  {command.format(out=shaped.path, model=model)}")


def print_shaped(title: str, shaped: Shaped) -> None:
    """A checkpoint before and after, and what that took; a teacher has a column of its own."""
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
    print_table(title, columns, rows)
    print(f"losses: nats per token, on {shaped.held_tokens:,} tokens that nothing was learned from")
    print(effort(shaped))


def effort(shaped: Shaped) -> str:
    """What it took."""
    memory = f"at most {shaped.peak_memory_bytes / 1e9:,.2f} GB of memory"
    if shaped.tokens_per_second is None or shaped.flop_utilisation is None:
        return f"{shaped.seconds:,.0f} seconds; {memory}"
    return (
        f"{shaped.steps:,} steps, {shaped.tokens_trained:,} tokens in {shaped.seconds / 60:,.1f} minutes: "
        f"{shaped.tokens_per_second:,.0f} tokens/s, {percent(shaped.flop_utilisation)} of this machine's "
        f"float32 rate; {memory}"
    )
