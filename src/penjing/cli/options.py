"""Options that several commands share, worded once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class TierName(StrEnum):
    """The precisions of a layered artifact."""

    fast = "fast"
    best = "best"


class FormatName(StrEnum):
    """The weight formats of a recipe."""

    keep = "keep"
    int8 = "int8"
    int6 = "int6"
    int5 = "int5"
    int4 = "int4"
    int3 = "int3"
    int2 = "int2"
    layered = "layered"
    table4 = "table4"
    table3 = "table3"
    table2 = "table2"
    nf4 = "nf4"
    mxfp4 = "mxfp4"
    fp8 = "fp8"


class QuantizeMethod(StrEnum):
    """How codes are chosen; all from `awq` on look at calibration text."""

    rtn = "rtn"
    range = "range"
    mse = "mse"
    percentile = "percentile"
    search = "search"
    awq = "awq"
    smoothquant = "smoothquant"
    gptq = "gptq"
    qronos = "qronos"
    auto = "auto"


class CandidateMethod(StrEnum):
    """How candidates of a search are quantized."""

    search = "search"
    gptq = "gptq"
    qronos = "qronos"
    auto = "auto"


class ObjectiveName(StrEnum):
    """What a search is to be best at."""

    size = "size"
    loss = "loss"
    latency = "latency"
    throughput = "throughput"
    cost = "cost"


class ExportName(StrEnum):
    """What an artifact can be exported to."""

    safetensors = "safetensors"
    gguf = "gguf"
    compressed_tensors = "compressed-tensors"


class DtypeName(StrEnum):
    """Float formats of an export."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Checkpoint or artifact directory, or 'seedling'.")
]
Checkpoint = Annotated[
    str, typer.Argument(metavar="MODEL", help="Checkpoint directory, model name to fetch, or 'seedling'.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run wrote there.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Text to measure on: .txt, .jsonl, .parquet or a directory. Default: built-in Python code."
    ),
]
Tier = Annotated[TierName | None, typer.Option(help="Precision at which a layered artifact runs.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads. Default: the cores this process may use.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of the text to use at most.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
