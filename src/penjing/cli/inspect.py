"""Commands that look and change nothing: profile, evaluate, verify."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.options import Data, Json, Model, Seed, Threads, Tier, Tokens
from penjing.cli.show import measured_text, print_json, progress_bar
from penjing.data.documents import DEFAULT_TOKENS
from penjing.errors import MissingExtraError, SpecError

if TYPE_CHECKING:  # the package behind it takes time to load, or is an extra
    from penjing.optimize.task_claims import TaskEvaluation
    from penjing.spec import Tier as PrecisionName


def profile(
    model: Model,
    context: Annotated[int, typer.Option(min=1, help="Tokens in the KV cache while decoding.")] = 512,
    as_json: Json = False,
) -> None:
    """Count parameters, operations and bytes, and bound the speed of this machine by its measured limits."""
    from penjing.cli.tables import print_profile
    from penjing.optimize.profile import measure_profile

    result = measure_profile(model, context)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_profile(result)


def evaluate(
    artifact: Model,
    against: Annotated[str | None, typer.Option(help="Checkpoint or artifact to compare with.")] = None,
    data: Data = None,
    tokens: Tokens = DEFAULT_TOKENS,
    window: Annotated[int | None, typer.Option(min=2, help="Longest context to score. Default: 512.")] = None,
    tier: Tier = None,
    threads: Threads = None,
    seed: Seed = 0,
    tasks: Annotated[
        str | None,
        typer.Option(help="Tasks of lm-evaluation-harness, NAME[,NAME...], instead of text and speed."),
    ] = None,
    tasks_dir: Annotated[Path | None, typer.Option(help="Directory of further tasks, as YAML.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task. Default: all.")] = None,
    max_drop: Annotated[
        str | None, typer.Option(help="Claim that no task's score drops by more: 1% or 0.01, of 1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure quality and speed as served; against another, token by token, with a confidence bound.

    With --tasks, both answer the same documents instead, and every score's drop is bounded.
    """
    if tasks is not None:
        if (data, tokens, window, seed) != (None, DEFAULT_TOKENS, None, 0):
            raise SpecError("--tasks brings its own text: leave out --data, --tokens, --window and --seed")
        answered = answer_tasks(
            artifact, against, tasks, tasks_dir, limit, max_drop, tier.value if tier else None, threads
        )
        show_tasks(answered, as_json)
        return
    if (tasks_dir, limit, max_drop) != (None, None, None):
        raise SpecError("--tasks-dir, --limit and --max-drop speak of tasks: name some with --tasks")
    from penjing.cli.tables import print_evaluation
    from penjing.optimize.evaluate import evaluate as measure

    with progress_bar() as progress:
        result = measure(
            artifact,
            against,
            measured_text(data),
            tokens=tokens,
            window=window,
            tier=tier.value if tier else None,
            threads=threads,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_evaluation(result)


def answer_tasks(
    artifact: str,
    against: str | None,
    names: str,
    directory: Path | None,
    limit: int | None,
    max_drop: str | None,
    tier: PrecisionName | None,
    threads: int | None,
) -> TaskEvaluation:
    """Both sides on some tasks. Raises SpecError with one side, MissingExtraError without the extra."""
    if against is None:
        raise SpecError("--tasks compares two sides: say with --against what to compare with")
    if find_spec("lm_eval") is None:
        raise MissingExtraError("tasks", "lm-eval", "--tasks")
    from penjing.optimize.tasks import TaskSettings, evaluate_tasks
    from penjing.spec import validate

    wanted = {
        "names": tuple(name for name in (part.strip() for part in names.split(",")) if name),
        "directory": directory,
        "limit": limit,
        "max_drop": max_drop,
    }
    settings = validate(TaskSettings, wanted, "tasks")
    with progress_bar() as progress:
        return evaluate_tasks(artifact, against, settings, tier=tier, threads=threads, progress=progress)


def show_tasks(answered: TaskEvaluation, as_json: bool) -> None:
    """One JSON document, or tables."""
    from penjing.cli.task_tables import print_tasks

    if as_json:
        print_json(answered.model_dump(mode="json"))
    else:
        print_tasks(answered)


def verify(
    artifact: Annotated[Path, typer.Argument(help="Artifact directory.")],
    remeasure: Annotated[
        str | None, typer.Option(help="Checkpoint to measure the claim against again.")
    ] = None,
    data: Data = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check every byte of an artifact, and its certificate if it has one."""
    from penjing.optimize.verify import verify as check

    text = None if remeasure is None else measured_text(data)
    with progress_bar() as progress:
        found = check(artifact, against=remeasure, data=text, threads=threads, progress=progress)
    if as_json:
        claim = found.certificate.model_dump(mode="json") if found.certificate else None
        print_json({"hash": found.hash, "certificate": claim, "remeasured": found.remeasured is not None})
        return
    print(f"every byte is as written: {found.hash}")
    if found.certificate is None:
        print("no certificate; `penjing optimize` issues one")
    else:
        again = "" if found.remeasured is None else ", and holds when measured again"
        print(f"the certificate belongs to it and keeps its budget{again}")
