"""Commands that make something smaller, or carry it elsewhere: optimize, quantize, export."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.cli.options import (
    CandidateMethod,
    Checkpoint,
    Data,
    DtypeName,
    ExportName,
    Force,
    FormatName,
    Json,
    ObjectiveName,
    Out,
    QuantizeMethod,
    Seed,
    Threads,
    Tier,
    Tokens,
)
from penjing.cli.show import measured_text, megabytes, percent, print_json, progress_bar, say
from penjing.data.documents import DEFAULT_TOKENS
from penjing.errors import SpecError

if TYPE_CHECKING:  # the package behind it takes time to load
    from penjing.spec import Recipe


def optimize(
    model: Checkpoint,
    out: Out,
    max_size: Annotated[
        str | None, typer.Option(help="Tensor bytes over the checkpoint's: 30% or 0.3.")
    ] = None,
    max_loss: Annotated[
        str | None, typer.Option(help="Rise of the perplexity, as an upper confidence bound: 2% or 0.02.")
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="Time between two tokens of one answer: 25ms.")
    ] = None,
    min_throughput: Annotated[
        float | None, typer.Option(help="Decoded tokens a second, of all streams together.")
    ] = None,
    max_ram: Annotated[str | None, typer.Option(help="Memory of the process that serves: 4GiB.")] = None,
    streams: Annotated[int, typer.Option(help="Answers at once that these three speak of.")] = 1,
    objective: Annotated[
        ObjectiveName | None,
        typer.Option(help="What to be best at. Default: size if there is --max-loss, else loss."),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(help="Of this machine: says what a million tokens cost.")
    ] = None,
    method: Annotated[
        CandidateMethod, typer.Option(help="How candidates are quantized: auto is best, search is quickest.")
    ] = CandidateMethod.auto,
    train_minutes: Annotated[
        float | None,
        typer.Option(help="To train a model with fewer parameters, where that promises more than formats."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the bound of the loss.")] = 0.95,
    data: Data = None,
    tokens: Tokens = DEFAULT_TOKENS,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find what keeps a budget and is best otherwise; certify it, and write a report.

    Every group of matrices gets a format of its own. If nothing keeps the budget, no artifact is written, the
    exit code is 3, and the limit that binds is named, with the nearest that could be kept.
    """
    from penjing.artifact.layout import PAGE_FILE, REPORT_FILE
    from penjing.cli.tables import print_evaluation, print_trials
    from penjing.optimize.missing import MissedBudgetError
    from penjing.optimize.record import write_record
    from penjing.optimize.search import optimize as search
    from penjing.report import render_page
    from penjing.report.writing import write_report
    from penjing.spec import Budget, validate

    wanted = {
        "max_size": max_size,
        "max_loss": max_loss,
        "max_latency": max_latency,
        "min_throughput": min_throughput,
        "max_ram": max_ram,
        "streams": streams,
        "confidence": confidence,
    }
    budget = validate(Budget, wanted, "budget")
    missed = out.with_name(f"{out.name}.{REPORT_FILE}")
    try:
        with progress_bar() as progress:
            result = search(
                model,
                out,
                budget,
                measured_text(data),
                objective=None if objective is None else objective.value,
                price_per_hour=price_per_hour,
                method=method.value,
                train_minutes=train_minutes,
                tokens=tokens,
                threads=threads,
                seed=seed,
                force=force,
                say=lambda line: print(line, file=sys.stderr),
                progress=progress,
            )
    except MissedBudgetError as error:
        if error.record is not None:
            write_record(missed, error.record)
            write_report(page := missed.with_suffix(".html"), render_page(error.record), force=True)
            print(f"what was tried: {page}", file=sys.stderr)
        raise
    write_report(page := out / PAGE_FILE, render_page(result.record), force=True)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    print_trials(result)
    print_evaluation(result.evaluation)
    print(f"wrote {out} with its certificate and a report ({page}); `penjing serve {out}` serves it")


def quantize(
    model: Checkpoint,
    out: Out,
    format: Annotated[FormatName | None, typer.Option(help="Weight format. Default: int4.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Inputs that share a scale: 32, 64 or 128.")] = None,
    method: Annotated[
        QuantizeMethod | None,
        typer.Option(help="How codes are chosen; from awq on by calibration text. Default: search."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text to calibrate on, more than once if you like: .txt, .jsonl, .parquet or a directory. "
            "Default: built-in text and text that the model writes itself."
        ),
    ] = None,
    calibration_tokens: Annotated[
        int | None, typer.Option(help="Tokens of that text. Default: 32768.")
    ] = None,
    max_ram: Annotated[
        str | None,
        typer.Option(help="Memory beyond which activations go to a file: 512MiB. Default: 1.5GiB."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short.")] = False,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Zero points beside the scales, for int2 to int8.")
    ] = False,
    kv: Annotated[
        str | None, typer.Option(help="KV cache: int8, int6, int5, int4, bf16 or fp32; or KEYS,VALUES.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML or JSON file, instead of --format.")] = None,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an artifact in a given format, without a budget; by weights alone, or by calibration text."""
    from penjing.optimize.quantizing import quantize as run
    from penjing.spec import Budget, validate

    limit = validate(Budget, {"max_ram": max_ram}, "quantize --max-ram").max_ram
    chosen = chosen_recipe(
        format, group_size, recipe, method, asymmetric=asymmetric, kv=kv, tokens=calibration_tokens, seed=seed
    )
    with progress_bar() as progress:
        artifact = run(
            model,
            out,
            chosen,
            data or (),
            max_ram_bytes=limit,
            resume=resume,
            force=force,
            threads=threads,
            say=say,
            progress=progress,
        )
    before = artifact.manifest.provenance.source.tensor_bytes
    if as_json:
        sizes = {"tensor_bytes": artifact.tensor_bytes, "checkpoint_bytes": before}
        print_json({"path": str(out), "hash": artifact.hash, **sizes})
        return
    ratio = percent(artifact.tensor_bytes / before)
    print(f"wrote {out}: {megabytes(artifact.tensor_bytes)} of tensors, {ratio} of the checkpoint")
    print(f"hash {artifact.hash}")


def chosen_recipe(
    format: FormatName | None,
    group_size: int | None,
    recipe: Path | None,
    method: QuantizeMethod | None,
    *,
    asymmetric: bool,
    kv: str | None,
    tokens: int | None,
    seed: int,
) -> Recipe:
    """One recipe from either a file or the short options. Raises SpecError if both are given."""
    from penjing.spec import KvFormats, Recipe, preset, read_recipe, validate

    if recipe is not None:
        if (format, group_size, method, kv, tokens) != (None,) * 5 or asymmetric or seed:
            raise SpecError(
                "--recipe says everything: give it without --format, --group-size, --asymmetric, --kv, "
                "--method, --calibration-tokens and --seed"
            )
        return read_recipe(recipe)
    if format is FormatName.keep and (group_size is not None or asymmetric or method is not None):
        raise SpecError(
            "--group-size, --asymmetric and --method: the format keep has no groups; leave them out"
        )
    if format is FormatName.mxfp4 and group_size not in (None, 32):
        raise SpecError(f"--group-size {group_size}: mxfp4 has groups of 32; leave it out")
    if group_size not in (None, 32, 64, 128):
        raise SpecError(f"--group-size {group_size}: it must be 32, 64 or 128")
    formats = None
    if kv is not None:
        keys, comma, values = kv.partition(",")
        formats = validate(KvFormats, {"key": keys, "value": values if comma else keys}, f"--kv {kv}")
    size: Any = group_size or 64
    data = preset((format or FormatName.int4).value, size, asymmetric, formats).model_dump() | {"seed": seed}
    if method is not None:
        data["steps"][0]["method"] = method.value
    if tokens is not None:
        data["steps"][0]["calibration"] = {"tokens": tokens}
    return validate(Recipe, data, "quantize")


def export(
    artifact: Annotated[Path, typer.Argument(help="Artifact directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write; with --to gguf, a file.")],
    to: Annotated[ExportName, typer.Option(help="What to write.")] = ExportName.safetensors,
    dtype: Annotated[
        DtypeName | None,
        typer.Option(help="Of dequantized weights, and of scales. Default: bf16; compressed-tensors: fp16."),
    ] = None,
    tier: Tier = None,
    tokenizer: Annotated[bool, typer.Option(help="Write the tokenizer into a GGUF file.")] = True,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an artifact for other tools: dequantized, or with its codes, and say what that cost."""
    from penjing.export.choose import export as write

    with progress_bar() as progress:
        exported = write(
            artifact,
            out,
            to=to.value,
            dtype=None if dtype is None else dtype.value,
            tier=None if tier is None else tier.value,
            tokenizer=tokenizer,
            force=force,
            progress=progress,
        )
    if as_json:
        conversions = [asdict(conversion) for conversion in exported.conversions]
        print_json({"path": str(out), "conversions": conversions, "notes": list(exported.notes)})
        return
    print(f"wrote {out}")
    for line in exported.lines():
        print(f"  {line}")
