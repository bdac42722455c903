"""Commands that look and change nothing: profile, evaluate, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.options import Data, Json, Model, Seed, Threads, Tier, Tokens
from penjing.cli.show import measured_text, print_json, progress_bar
from penjing.data.documents import DEFAULT_TOKENS


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
    as_json: Json = False,
) -> None:
    """Measure quality and speed as served; against another, token by token, with a confidence bound."""
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
