"""What a person sees: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from penjing.errors import PenjingError

if TYPE_CHECKING:  # the package behind it takes time to load
    from penjing.optimize.progress import Progress


def fail(error: PenjingError) -> NoReturn:
    """End the process with one line that names the error's class, and its exit code."""
    print(f"penjing: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(error.exit_code)


def say(line: str) -> None:
    """A line about the work."""
    print(f"penjing: {line}", file=sys.stderr)


def print_json(value: object) -> None:
    """One JSON document on stdout, for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: the first column is a name, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def measured_text(data: Path | None) -> Path:
    """The text to measure on; that it is the built-in one is said aloud."""
    if data is not None:
        return data
    from penjing.models.embedded import SEEDLING_TEXT

    print("measuring on the built-in text (Python code); --data FILE measures on yours", file=sys.stderr)
    return SEEDLING_TEXT


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress callback (stage, done, total) drawn on stderr; silent where stderr is no terminal."""
    if not sys.stderr.isatty():  # nor pays for the import
        from penjing.optimize.progress import silent

        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


def runnable(model: str) -> Path:
    """An artifact directory; the first time, a checkpoint's reference artifact is made, with a bar."""
    from penjing.artifact import is_artifact

    if is_artifact(model):  # nothing of what could make one is loaded
        return Path(model)
    from penjing.optimize.reference import runnable as make_runnable

    with progress_bar() as progress:
        return make_runnable(model, progress)


def megabytes(count: int) -> str:
    """Bytes as decimal megabytes."""
    return f"{count / 1e6:,.2f} MB"


def percent(fraction: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * fraction:.2f}%"
