"""A dequantized checkpoint in Hugging Face layout: for tools that cannot read the artifact.

The weights are those the artifact serves, rounded once to the dtype asked for; tensors are written one at a
time, so memory is about one tensor. (The safetensors format: 8 bytes of header length, a JSON header, data.)
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact, TensorRole, expected_tensors
from penjing.artifact.layout import RESIDUAL_FILE, TENSORS_FILE
from penjing.artifact.staging import StagingDirectory, output_errors, sync
from penjing.errors import CorruptCheckpointError, FormatError, SpecError
from penjing.export.settings import rebuild_config
from penjing.formats import decode
from penjing.models.families import family_named
from penjing.models.layout import published_tensors
from penjing.models.shards import METADATA, read_metadata
from penjing.spec import Tier

ExportDtype = Literal["bf16", "fp16", "fp32"]
DTYPES: dict[ExportDtype, tuple[str, str, Any]] = {
    "bf16": ("BF16", "bfloat16", ml_dtypes.bfloat16),
    "fp16": ("F16", "float16", np.float16),
    "fp32": ("F32", "float32", np.float32),
}
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FILES_KEY = "penjing.files"  # in the metadata of the weights: a JSON list of the names beside them
NOT_EXPORTED = "is not a checkpoint that Penjing exported"


def export_safetensors(
    source: str | Path,
    out: str | Path,
    *,
    dtype: ExportDtype = "bf16",
    tier: Tier | None = None,
    force: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write the artifact at `source` as a checkpoint at `out`: weights, config.json, tokenizer.

    Raises ArtifactError, OutputError, UnsupportedConfigError (blocks of different widths), SpecError (a tier
    that the artifact lacks), FormatError (a weight beyond fp16's range).
    """
    source, out = Path(source), Path(out)
    artifact = Artifact.open(source)
    chosen = tier or artifact.tiers[-1]
    if chosen not in artifact.tiers:
        raise SpecError(f"{source}: has no tier {chosen}; it runs at {' or '.join(artifact.tiers)}")
    config = rebuild_config(artifact.config, DTYPES[dtype][1], source)
    say_embedding_scale(artifact, dtype)
    staging = StagingDirectory(out, force=force, objection=objection_to_replacing)
    staging.create()
    try:
        with output_errors(out):
            write_weights(artifact, staging.path / WEIGHTS_FILE, dtype, chosen, progress)
            (staging.path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            for name in text_files(artifact):
                shutil.copyfile(artifact.path / name, staging.path / name)
        staging.publish()
    finally:
        staging.discard()
    return out


def say_embedding_scale(artifact: Artifact, dtype: ExportDtype) -> None:
    """Families that scale their embedding round the scale to the dtype they are loaded in."""
    config = artifact.config
    if not family_named(config.family).scales_embedding:
        return
    loaded = float(DTYPES[dtype][2](np.float32(math.sqrt(config.hidden_size))))
    if loaded != config.embedding_scale:
        print(
            f"penjing: {artifact.path}: its embedding is scaled by {config.embedding_scale:.6g}, and by "
            f"{loaded:.6g} in a model that is loaded in {dtype}",
            file=sys.stderr,
        )


def objection_to_replacing(path: Path) -> str | None:
    """Why `force` may not replace a directory; None for an export and nothing else, or an empty one."""
    if not path.is_dir():
        return NOT_EXPORTED
    present = {entry.name for entry in path.iterdir()}
    if not present:
        return None
    try:
        listed = set(json.loads(read_metadata(path / WEIGHTS_FILE)[FILES_KEY]))
    except (CorruptCheckpointError, LookupError, TypeError, ValueError, RecursionError):
        return NOT_EXPORTED
    foreign = sorted(present - listed - {WEIGHTS_FILE})
    return f"holds {foreign[0]!r}, which is no part of the export" if foreign else None


def text_files(artifact: Artifact) -> list[str]:
    """The files of an artifact that a checkpoint has too: tokenizer, chat template, generation settings."""
    return sorted(set(artifact.manifest.files) - {TENSORS_FILE, RESIDUAL_FILE})


def write_weights(
    artifact: Artifact,
    path: Path,
    dtype: ExportDtype,
    tier: Tier,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Stream every tensor to one safetensors file, under its published name."""
    roles = expected_tensors(artifact.config)
    with path.open("xb") as file:
        file.write(header(artifact, dtype))
        for done, (name, tensor) in enumerate(decoded_tensors(artifact, roles, tier)):
            with np.errstate(over="ignore"):
                rounded = tensor.astype(DTYPES[dtype][2])
            if not np.isfinite(rounded.astype(np.float32)).all():
                raise FormatError(
                    f"{artifact.path}: {name} is beyond the range of {dtype}; export as bf16 or fp32"
                )
            file.write(np.ascontiguousarray(rounded).view(np.uint8).data)
            if progress is not None:
                progress("export", done + 1, len(roles))
    sync(path)


def decoded_tensors(
    artifact: Artifact, roles: dict[str, TensorRole], tier: Tier
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor as float32, by canonical name, one at a time."""
    for name, role in roles.items():
        yield name, decode(artifact.matrix(name), tier) if role.is_matrix else artifact.vector(name, tier)


def header(artifact: Artifact, dtype: ExportDtype) -> bytes:
    """Length and JSON of a safetensors header; spaces align the data to 8 bytes.

    The parts of a fused tensor follow one another already. The header names the artifact and the files
    written beside the weights: a later export knows its own by that.
    """
    files = json.dumps([CONFIG_FILE, *text_files(artifact)])
    table: dict[str, Any] = {METADATA: {"format": "pt", "penjing": artifact.hash, FILES_KEY: files}}
    offset = 0
    for tensor in published_tensors(artifact.config):
        end = offset + math.prod(tensor.shape) * np.dtype(DTYPES[dtype][2]).itemsize
        table[tensor.name] = {
            "dtype": DTYPES[dtype][0],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
