"""Artifacts of random weights at a published shape: what only shape and format decide, speed for one.

Codes are raw random bytes, and the one scale of a matrix gives its weights the deviation 1 / sqrt(inputs), so
that activations stay of order one through any depth. Tensors are written one at a time; the largest is all
that memory must hold. Everything follows from the recipe, so an artifact is written once and found again.
"""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact, ArtifactWriter, ModelConfig, Provenance, Source, expected_tensors
from penjing.artifact.config import count_parameters
from penjing.artifact.staging import output_errors
from penjing.errors import ArtifactError, FormatError
from penjing.formats import Encoded, grid_of, part_sizes
from penjing.formats.codes import TABLE_BITS, TABLE_ENTRIES
from penjing.models.shapes import find_shape
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import cache_directory
from penjing.spec import (
    CodedFormatName,
    GroupSize,
    QuantizeStep,
    Recipe,
    WeightFormat,
    canonical_json,
    preset,
)

BenchFormat = Literal[CodedFormatName, "bf16"]
BENCH_FORMATS: tuple[BenchFormat, ...] = get_args(BenchFormat)
GENERATOR_VERSION = 1  # a change to what is drawn must change it
STAGE = "random weights"
MEAN_MAGNITUDE = 1.5  # of a random mantissa, 1 to 2


def random_artifact(
    shape: str,
    format: BenchFormat = "int4",
    group_size: GroupSize = 64,
    *,
    directory: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """The path of a random artifact without a tokenizer, in `directory` or the cache; made on first use.

    Groups of mxfp4 are of 32, whatever is asked for.

    As in `preset`, embedding and head of the integer formats are int8, and keys and values are cached in
    int8; bf16 is bf16 throughout. Raises SpecError for an unknown shape, FormatError for groups that do not
    divide its widths, OutputError.
    """
    config = find_shape(shape, "bf16" if format == "bf16" else "int8")
    return random_artifact_of(config, shape, format, group_size, directory=directory, progress=progress)


def random_artifact_of(
    config: ModelConfig,
    shape: str,
    format: BenchFormat = "int4",
    group_size: GroupSize = 64,
    *,
    directory: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """The same for any configuration; `shape` is what its directory is called by."""
    if format != "bf16":
        group_size = WeightFormat(name=format, group_size=group_size).group_size
    source = source_of(config, format, group_size)
    name = f"{shape}-{format}" if format == "bf16" else f"{shape}-{format}-g{group_size}"
    path = (directory or cache_directory() / "random") / name
    if path.exists() and is_of(path, source):
        return path
    check_whole_groups(shape, config, 1 if format == "bf16" else group_size)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ArtifactWriter(path, config, force=path.exists()) as writer:
        add_tensors(writer, format, group_size, progress)
        versions = {name: version(name) for name in ("penjing", "numpy")}
        writer.finish(Provenance(source=source, recipe=recipe_of(format, group_size), versions=versions))
    return path


def source_of(config: ModelConfig, format: BenchFormat, group_size: GroupSize) -> Source:
    """Stands for the recipe: another hash, another artifact."""
    recipe = {"generator": GENERATOR_VERSION, "format": format, "group_size": group_size}
    text = canonical_json(recipe | {"config": config.model_dump(mode="json")})
    elements = count_parameters(config)
    return Source(
        name="random weights", hash=hashlib.sha256(text.encode()).hexdigest(), tensor_bytes=2 * elements
    )


def recipe_of(format: BenchFormat, group_size: GroupSize) -> Recipe:
    """The recipe whose result has these formats."""
    if format != "bf16":
        return preset(format, group_size)
    keep = WeightFormat(name="keep")
    return Recipe(steps=(QuantizeStep(weights=keep, embedding=keep, kv="bf16"),))


def is_of(path: Path, source: Source) -> bool:
    """Whether an artifact of this recipe stands there; whoever runs it checks its bytes."""
    try:
        return Artifact.open(path, verify="none").manifest.provenance.source == source
    except ArtifactError:
        return False


def check_whole_groups(shape: str, config: ModelConfig, group_size: int) -> None:
    """Raises FormatError where columns would need padding, which random bytes are not."""
    for name, role in expected_tensors(config).items():
        if role.is_matrix and role.shape[1] % group_size:
            raise FormatError(
                f"{shape}: the {role.shape[1]} inputs of {name} are not whole groups of {group_size}; "
                "use smaller groups"
            )


def add_tensors(writer: ArtifactWriter, format: BenchFormat, group_size: int, progress: Progress) -> None:
    """Write every tensor in order."""
    roles = expected_tensors(writer.config)
    for index, (name, role) in enumerate(roles.items()):
        progress(STAGE, index, len(roles))
        if not role.is_matrix:
            value = 0.0 if name.endswith("_bias") else 1.0
            writer.add_vector(name, np.full(role.shape, value, np.float32))
            continue
        small = name in ("embedding", "head") and format != "bf16"
        writer.add_matrix(
            name, random_matrix("int8" if small else format, group_size, role.shape, seed=index)
        )
    progress(STAGE, len(roles), len(roles))


def even_table(bits: int) -> NDArray[np.int8]:
    """2^bits levels of equal distances around 0, int8 [16]."""
    table = np.zeros(TABLE_ENTRIES, np.int8)
    table[: 2**bits] = np.linspace(-120, 120, 2**bits)
    return table


def random_matrix(format: str, group_size: int, shape: tuple[int, ...], seed: int) -> Encoded:
    """A random matrix [rows, columns] in tile order, its weights of deviation 1 / sqrt(columns)."""
    rows, columns = shape
    bits = np.random.SFC64(seed)
    if format == "bf16":
        sizes = part_sizes(format, rows, columns, 0)
        return Encoded(format, rows, columns, 0, random_halves(bits, sizes.codes, columns))
    sizes = part_sizes(format, rows, columns, group_size)
    table = even_table(TABLE_BITS[format]) if format in TABLE_BITS else None
    levels = grid_of(WeightFormat.model_validate({"name": format, "group_size": group_size}), table).levels
    scale = 1 / (round(float(np.std(levels)), 2) * math.sqrt(columns))
    scales = np.full(sizes.scales // 2, scale)
    if format == "mxfp4":
        scales = powers_of_two(scales)
    return Encoded(
        format,
        rows,
        columns,
        group_size,
        codes=random_bytes(bits, sizes.codes),
        scales=scales.astype(np.float16).view(np.uint16),
        residual=random_bytes(bits, sizes.residual) if sizes.residual else None,
        high=random_bytes(bits, sizes.high) if sizes.high else None,
        table=table,
    )


def powers_of_two(scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """The powers of two around equal scales, in turns, so that the mean of their squares is theirs."""
    low = 2.0 ** np.floor(np.log2(scales))
    share = (np.square(scales / low) - 1) / 3  # of the larger one
    turns = np.floor(np.cumsum(share))
    return np.where(np.diff(turns, prepend=0.0) > 0, 2 * low, low)


def random_bytes(bits: np.random.SFC64, count: int) -> NDArray[np.uint8]:
    """`count` bytes, the fastest way there is."""
    words: NDArray[Any] = np.asarray(bits.random_raw(-(-count // 8)))
    return words.view(np.uint8)[:count]


def random_halves(bits: np.random.SFC64, count: int, columns: int) -> NDArray[np.uint8]:
    """`count` bytes of bf16: random signs and mantissas under the one exponent that suits the columns."""
    exponent = 127 - round(math.log2(MEAN_MAGNITUDE * math.sqrt(columns)))
    elements = random_bytes(bits, count).view(np.uint16)
    elements &= np.uint16(0x807F)
    elements |= np.uint16(exponent << 7)
    return elements.view(np.uint8)
