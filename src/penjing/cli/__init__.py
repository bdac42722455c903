"""The command line: wiring only. Each command reads its options, calls one function below, and prints."""

from __future__ import annotations

import gc
import os

import typer

from penjing.cli import advise, bench, compress, inspect, learn, make, report, reshape, run
from penjing.cli.show import fail
from penjing.errors import PenjingError

__all__ = ["app", "main"]

app = typer.Typer(
    name="penjing",
    help="Make a language model small enough for this machine, prove what was lost, and serve it.\n\n"
    "MODEL is a checkpoint directory (Hugging Face layout), an artifact that Penjing wrote, a model name to "
    "fetch (with the extra 'hub'), or 'seedling', the small model that ships with Penjing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

GARBAGE_THRESHOLD = 50_000  # new objects between two looks; 700 by default

INSPECT, MAKE, SHAPE, RUN = "Look", "Make smaller", "Reshape and train", "Run"
app.command("advise", rich_help_panel=INSPECT)(advise.advise)
app.command("profile", rich_help_panel=INSPECT)(inspect.profile)
app.command("evaluate", rich_help_panel=INSPECT)(inspect.evaluate)
app.command("verify", rich_help_panel=INSPECT)(inspect.verify)
app.command("report", rich_help_panel=INSPECT)(report.report)
app.command("bench", rich_help_panel=INSPECT)(bench.bench)
app.command("optimize", rich_help_panel=MAKE)(make.optimize)
app.command("quantize", rich_help_panel=MAKE)(make.quantize)
app.command("export", rich_help_panel=MAKE)(make.export)
app.command("compress", rich_help_panel=MAKE)(compress.compress)
app.command("prune", rich_help_panel=SHAPE)(reshape.prune)
app.command("distill", rich_help_panel=SHAPE)(learn.distill)
app.command("transfer", rich_help_panel=SHAPE)(reshape.transfer)
app.command("train", rich_help_panel=SHAPE)(learn.train)
app.command("generate", rich_help_panel=RUN)(run.generate)
app.command("chat", rich_help_panel=RUN)(run.chat)
app.command("serve", rich_help_panel=RUN)(run.serve)
app.command("demo", rich_help_panel=RUN)(run.demo)


def main() -> None:
    """Run the command line; an error that a user can cause is one line and exit code 2 (or 3: the budget)."""
    hasten_start()
    try:
        app()
    except PenjingError as error:
        fail(error)


def hasten_start() -> None:
    """Spare the process what takes a tenth of its start: looking again and again for garbage among modules
    that stay, and looking through all installed packages for plugins of pydantic."""
    gc.set_threshold(GARBAGE_THRESHOLD)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
