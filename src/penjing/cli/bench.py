"""The command that times: an artifact, a random one of a published shape, or a running server."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penjing.cli.options import Json, Threads, Tier, TierName
from penjing.cli.show import print_json, progress_bar
from penjing.errors import SpecError

if TYPE_CHECKING:  # the package behind it takes time to load
    from penjing.optimize.bench import Bench, Rounds, Workload


class BenchFormat(StrEnum):
    """Weights of a random artifact."""

    int4 = "int4"
    int8 = "int8"
    layered = "layered"
    int2 = "int2"
    int3 = "int3"
    int5 = "int5"
    int6 = "int6"
    table4 = "table4"
    table3 = "table3"
    table2 = "table2"
    nf4 = "nf4"
    mxfp4 = "mxfp4"
    fp8 = "fp8"
    bf16 = "bf16"


def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Checkpoint or artifact directory, or 'seedling'.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Random weights at a published shape instead, like llama-3.2-1b.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A running OpenAI-style server instead, like http://127.0.0.1:8000/v1.")
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="Tokens of a prompt; several, as 128,512, give a row each.")
    ] = "256",
    output: Annotated[str, typer.Option(help="Tokens of an answer, one number or several.")] = "64",
    concurrency: Annotated[str, typer.Option(help="Requests at once, one number or several.")] = "1",
    arrivals: Annotated[
        int | None,
        typer.Option(help="While streams decode, prompts of so many tokens arrive, one after another."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them that do not.")] = 1,
    tier: Tier = None,
    threads: Threads = None,
    format: Annotated[BenchFormat | None, typer.Option(help="With --shape. Default: int4.")] = None,
    group_size: Annotated[int | None, typer.Option(help="With --shape: 32, 64 or 128. Default: 64.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="With --shape: where random artifacts are kept. Default: the cache.")
    ] = None,
    served_model: Annotated[
        str | None, typer.Option("--model", help="With --url: the id to ask for. Default: the only one.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="With --url: its key.", envvar="OPENAI_API_KEY", show_envvar=True)
    ] = None,
    as_json: Json = False,
) -> None:
    """Time prefill and decoding under load, and relate them to this machine's measured limits."""
    from penjing.optimize.bench import Rounds, grid

    check_options(
        {"MODEL": model, "--shape": shape, "--url": url},
        {
            "--format": ("--shape", format),
            "--group-size": ("--shape", group_size),
            "--cache-dir": ("--shape", cache_dir),
            "--model": ("--url", served_model),
        },
    )
    if url is not None and (tier or threads):
        raise SpecError("--tier and --threads are a server's own affair: leave them out with --url")
    workloads = grid(
        numbers("--prompt", prompt),
        numbers("--output", output),
        numbers("--concurrency", concurrency),
        arrivals,
    )
    counted = Rounds(counted=rounds, warmup=warmup)
    if url is not None:
        show(time_server(url, served_model, api_key, workloads, counted), as_json)
        return
    path = model or random_weights(str(shape), format or BenchFormat.int4, group_size, cache_dir)
    show(time_artifact(str(path), workloads, counted, tier, threads), as_json)


def check_options(targets: dict[str, object], dependents: dict[str, tuple[str, object]]) -> None:
    """Raises SpecError unless one target is named, and nothing is said of another."""
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise SpecError(f"{' and '.join(given) or 'nothing'} to time: give one of {', '.join(targets)}")
    for option, (target, value) in dependents.items():
        if value is not None and target not in given:
            raise SpecError(
                f"{option} goes with {target}: leave it out, or give {target} instead of {given[0]}"
            )


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers between commas. Raises SpecError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SpecError(f"{option} {text!r}: give a number, or several like 128,512") from None


def random_weights(shape: str, format: BenchFormat, group: int | None, directory: Path | None) -> Path:
    """The random artifact; where it lies is said aloud, for it may be large."""
    from penjing.optimize.bench import random_artifact
    from penjing.spec import WeightFormat, validate

    if format is BenchFormat.bf16 and group is not None:
        raise SpecError("--group-size: bf16 has no groups, leave it out")
    if format is BenchFormat.mxfp4 and group not in (None, 32):
        raise SpecError(f"--group-size {group}: mxfp4 has groups of 32, leave it out")
    size = validate(WeightFormat, {"group_size": 64 if group is None else group}, "--group-size").group_size
    with progress_bar() as progress:
        path = random_artifact(shape, format.value, size, directory=directory, progress=progress)
    print(f"random weights: {path}", file=sys.stderr)
    return path


def time_artifact(
    model: str, workloads: tuple[Workload, ...], rounds: Rounds, tier: TierName | None, threads: int | None
) -> Bench:
    """In this process."""
    from penjing.optimize.bench import measure_bench

    with progress_bar() as progress:
        return measure_bench(
            model,
            workloads,
            tier=tier.value if tier else None,
            threads=threads,
            rounds=rounds,
            progress=progress,
        )


def time_server(
    url: str, model: str | None, api_key: str | None, workloads: tuple[Workload, ...], rounds: Rounds
) -> Bench:
    """Over HTTP."""
    from penjing.optimize.bench import measure_endpoint

    with progress_bar() as progress:
        return measure_endpoint(
            url, workloads, model=model, api_key=api_key, rounds=rounds, progress=progress
        )


def show(result: Bench, as_json: bool) -> None:
    """As a table or a document."""
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        from penjing.cli.tables import print_bench

        print_bench(result)
