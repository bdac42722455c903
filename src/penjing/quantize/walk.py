"""From the checkpoint to the artifact: without data one tensor at a time, with data block by block."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import (
    Artifact,
    ArtifactWriter,
    ModelConfig,
    Provenance,
    Source,
    expected_tensors,
)
from penjing.errors import SpecError
from penjing.formats import Encoded, encode, tiny_notice
from penjing.models import Checkpoint, needs_conversion, text_files
from penjing.quantize.assignment import assign_formats
from penjing.spec import QuantizeStep, Recipe, WeightFormat
from penjing.text import Tokenizer
from penjing.text.tokenizer import TOKENIZER_FILE


@dataclass(frozen=True)
class Origin:
    """What a recipe's earlier steps made a checkpoint of.

    checkpoint: the one that they began with. texts: the SHA-256 of what each of them read.
    """

    checkpoint: Checkpoint
    texts: tuple[str, ...]


def print_notice(line: str) -> None:
    """A line beside the results."""
    print(f"penjing: {line}", file=sys.stderr)


def quantize_checkpoint(
    source: str | Path | Checkpoint,
    out: str | Path,
    recipe: Recipe,
    *,
    origin: Origin | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] = print_notice,
) -> Artifact:
    """Write the artifact that a recipe makes of a checkpoint; peak memory is about one tensor.

    source: a directory, `seedling`, a name to fetch, or a checkpoint that is open already. The same source,
    recipe and versions give the same bytes. origin: where earlier steps of the recipe began, if there were
    any. progress: called as (tensors done, all tensors). notice: called with a line for every matrix with
    groups too small for float16's scales. Raises SpecError for a recipe with steps that nobody took, or one
    that needs data (`quantize_calibrated`), CheckpointError, TokenizerError, FormatError or OutputError.
    """
    step = last_step(recipe, origin)
    if step.needs_data:
        raise SpecError(f"the method {step.method} needs calibration data: use penjing.optimize.quantizing")
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.open(source)
    roles, formats = expected_tensors(checkpoint.config), assign_formats(checkpoint.config, step)
    with TemporaryDirectory() as scratch:
        files = readable_text_files(checkpoint.path, Path(scratch))
        with ArtifactWriter(out, with_kv_format(checkpoint.config, step), force=force) as writer:
            for done, (name, role) in enumerate(roles.items()):
                if progress is not None:
                    progress(done, len(roles))
                tensor = checkpoint.read(name)
                if role.is_matrix:
                    encoded = encode_without_data(tensor, formats[name], step, name)
                    if encoded.tiny_groups:
                        notice(tiny_notice(name, encoded))
                    writer.add_matrix(name, encoded)
                else:
                    writer.add_vector(name, tensor.astype(np.float32))
            for file in files:
                writer.add_file(file)
            writer.finish(provenance_of(checkpoint, recipe, origin=origin))
    if progress is not None:
        progress(len(roles), len(roles))
    return Artifact.open(writer.path, verify="none")


def encode_without_data(
    tensor: NDArray[Any],
    format: WeightFormat,
    step: QuantizeStep,
    name: str,
    table: NDArray[np.int8] | None = None,
) -> Encoded:
    """A matrix in its format, by a data-free method; `table`: its levels, where they are known.

    Embedding and head take `search` where the method is one that holds a whole matrix in float32, and so do
    those of a step that looks at activations.
    """
    if step.method in ("rtn", "range"):
        return encode(tensor, format, "range", name, table)
    if step.method in ("mse", "percentile") and name not in ("embedding", "head"):
        by_range = import_module("penjing.quantize.by_range")  # loads torch, which the rest does without
        encoded: Encoded = by_range.encode_by(tensor, format, step.method, name)
        return encoded
    return encode(tensor, format, "search", name, table)


def readable_text_files(directory: Path, scratch: Path) -> list[Path]:
    """Tokenizer, chat template and generation settings, as far as a checkpoint has them.

    A converted tokenizer is in `scratch`. Raises TokenizerError for those that could not be served with.
    """
    files = text_files(directory, scratch)
    converted = scratch / TOKENIZER_FILE
    if converted in files:
        for file in files:
            if file != converted:
                copyfile(file, scratch / file.name)
    if any(file.name == TOKENIZER_FILE for file in files):
        Tokenizer.load(scratch if converted in files else directory)
    return files


def last_step(recipe: Recipe, origin: Origin | None) -> QuantizeStep:
    """The step that this walk takes; those before it have been taken, or there are none."""
    if recipe.shaping and origin is None:
        steps = ", ".join(step.step for step in recipe.steps)
        raise SpecError(f"recipe: its steps are {steps}; `penjing compress` takes them all")
    return recipe.quantizing


def with_kv_format(config: ModelConfig, step: QuantizeStep) -> ModelConfig:
    """The same model with the recipe's key and value format in every block."""
    update = {"key_format": step.kv_formats.key, "value_format": step.kv_formats.value}
    return config.model_copy(
        update={"blocks": tuple(block.model_copy(update=update) for block in config.blocks)}
    )


def provenance_of(
    checkpoint: Checkpoint, recipe: Recipe, calibration: str | None = None, origin: Origin | None = None
) -> Provenance:
    """What the artifact was made of, and by which versions. calibration: SHA-256 of the tokens, if any."""
    began = checkpoint if origin is None else origin.checkpoint
    source = Source(
        name=began.name, revision=began.revision, hash=began.hash, tensor_bytes=began.tensor_bytes
    )
    texts = [] if origin is None else list(origin.texts)
    if texts:
        calibration = hashlib.sha256(" ".join([*texts, calibration or ""]).encode()).hexdigest()
    packages = ["ml_dtypes", "numpy", "penjing"]
    if needs_conversion(checkpoint.path):
        packages.append("transformers")
    if calibration is not None or recipe.quantizing.method in ("mse", "percentile"):
        packages.append("torch")
    versions = {package: version(package) for package in packages}
    return Provenance(source=source, recipe=recipe, versions=versions, calibration=calibration)
