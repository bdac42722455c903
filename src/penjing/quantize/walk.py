"""Quantization without calibration data: one tensor at a time, from the checkpoint to the artifact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np

from penjing.artifact import (
    Artifact,
    ArtifactWriter,
    ModelConfig,
    Provenance,
    Source,
    TensorRole,
    expected_tensors,
)
from penjing.errors import SpecError
from penjing.formats import encode, tiny_notice
from penjing.models import Checkpoint, needs_conversion, text_files
from penjing.spec import QuantizeStep, Recipe, WeightFormat
from penjing.text import Tokenizer
from penjing.text.tokenizer import TOKENIZER_FILE


def print_notice(line: str) -> None:
    """A line beside the results."""
    print(f"penjing: {line}", file=sys.stderr)


def quantize_checkpoint(
    source: str | Path | Checkpoint,
    out: str | Path,
    recipe: Recipe,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] = print_notice,
) -> Artifact:
    """Write the artifact that a recipe makes of a checkpoint; peak memory is about one tensor.

    source: a directory, `seedling`, a name to fetch, or a checkpoint that is open already. The same source,
    recipe and versions give the same bytes. progress: called as (tensors done, all tensors). notice: called
    with a line for every matrix with groups too small for float16's scales. Raises SpecError
    for a recipe of more than one step, CheckpointError, TokenizerError, FormatError or OutputError.
    """
    step = only_step(recipe)
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.open(source)
    roles = expected_tensors(checkpoint.config)
    with TemporaryDirectory() as scratch:
        files = readable_text_files(checkpoint.path, Path(scratch))
        with ArtifactWriter(out, with_kv_format(checkpoint.config, step), force=force) as writer:
            for done, (name, role) in enumerate(roles.items()):
                if progress is not None:
                    progress(done, len(roles))
                tensor = checkpoint.read(name)
                if role.is_matrix:
                    encoded = encode(tensor, format_of(step, name, role), step.scales, name)
                    if encoded.tiny_groups:
                        notice(tiny_notice(name, encoded))
                    writer.add_matrix(name, encoded)
                else:
                    writer.add_vector(name, tensor.astype(np.float32))
            for file in files:
                writer.add_file(file)
            writer.finish(provenance_of(checkpoint, recipe))
    if progress is not None:
        progress(len(roles), len(roles))
    return Artifact.open(writer.path, verify="none")


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


def only_step(recipe: Recipe) -> QuantizeStep:
    """The one step that this walk can take."""
    if len(recipe.steps) != 1:
        raise SpecError(f"recipe: has {len(recipe.steps)} steps; quantization without data takes exactly one")
    return recipe.steps[0]


def format_of(step: QuantizeStep, name: str, role: TensorRole) -> WeightFormat:
    """The format of a matrix: embedding and head have one of their own, and some keep their dtype."""
    if role.keeps_dtype:
        return WeightFormat(name="keep")
    return step.embedding if name in ("embedding", "head") else step.weights


def with_kv_format(config: ModelConfig, step: QuantizeStep) -> ModelConfig:
    """The same model with the recipe's key and value format in every block."""
    update = {"key_format": step.kv_formats.key, "value_format": step.kv_formats.value}
    return config.model_copy(
        update={"blocks": tuple(block.model_copy(update=update) for block in config.blocks)}
    )


def provenance_of(checkpoint: Checkpoint, recipe: Recipe) -> Provenance:
    """What the artifact was made of, and by which versions."""
    source = Source(
        name=checkpoint.name,
        revision=checkpoint.revision,
        hash=checkpoint.hash,
        tensor_bytes=checkpoint.tensor_bytes,
    )
    packages = ["ml_dtypes", "numpy", "penjing"]
    if needs_conversion(checkpoint.path):
        packages.append("transformers")
    versions = {package: version(package) for package in packages}
    return Provenance(source=source, recipe=recipe, versions=versions)
