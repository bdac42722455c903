"""A checkpoint directory in Hugging Face layout: config.json, one safetensors file, and the text files.

Tensors are written one at a time, so memory is about one tensor. (The safetensors format: 8 bytes of header
length, a JSON header, data.)
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact
from penjing.artifact.layout import RESIDUAL_FILE, TENSORS_FILE
from penjing.artifact.staging import StagingDirectory, output_errors, sync
from penjing.errors import CorruptCheckpointError, FormatError, SpecError
from penjing.export.conversion import Loss
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
ELEMENT_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8}


@dataclass(frozen=True)
class WeightsTensor:
    """A tensor of the file: its safetensors dtype, and its elements, run by run."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    runs: Callable[[], Iterator[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.dtype]


def chosen_tier(artifact: Artifact, tier: Tier | None) -> Tier:
    """The tier asked for, or the best one. Raises SpecError for one that the artifact lacks."""
    chosen = tier or artifact.tiers[-1]
    if chosen not in artifact.tiers:
        raise SpecError(f"{artifact.path}: has no tier {chosen}; it runs at {' or '.join(artifact.tiers)}")
    return chosen


def write_directory(
    artifact: Artifact,
    out: Path,
    config: dict[str, Any],
    tensors: Sequence[WeightsTensor],
    *,
    force: bool,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Write the whole directory, under its name when it is complete. Raises OutputError."""
    staging = StagingDirectory(out, force=force, objection=objection_to_replacing)
    staging.create()
    try:
        with output_errors(out):
            write_weights(artifact, staging.path / WEIGHTS_FILE, tensors, progress)
            (staging.path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            for name in text_files(artifact):
                shutil.copyfile(artifact.path / name, staging.path / name)
        staging.publish()
    finally:
        staging.discard()


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
    tensors: Sequence[WeightsTensor],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Stream every tensor to one safetensors file."""
    with path.open("xb") as file:
        file.write(header(artifact, tensors))
        for done, tensor in enumerate(tensors):
            begin = file.tell()
            for run in tensor.runs():
                file.write(np.ascontiguousarray(run).reshape(-1).view(np.uint8).data)
            assert file.tell() - begin == tensor.nbytes, tensor.name
            if progress is not None:
                progress("export", done + 1, len(tensors))
    sync(path)


def header(artifact: Artifact, tensors: Sequence[WeightsTensor]) -> bytes:
    """Length and JSON of a safetensors header; spaces align the data to 8 bytes.

    The header names the artifact and the files written beside the weights: a later export knows its own by
    that.
    """
    files = json.dumps([CONFIG_FILE, *text_files(artifact)])
    table: dict[str, Any] = {METADATA: {"format": "pt", "penjing": artifact.hash, FILES_KEY: files}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.nbytes
        table[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def rounded(values: NDArray[np.float32], dtype: ExportDtype, name: str, loss: Loss | None) -> NDArray[Any]:
    """Numbers in another dtype; `loss` is told what that cost. Raises FormatError beyond its range."""
    with np.errstate(over="ignore"):
        written: NDArray[Any] = values.astype(DTYPES[dtype][2])
    read = written.astype(np.float32)
    if not np.isfinite(read).all():
        raise FormatError(f"{name} is beyond the range of {dtype}; export as bf16 or fp32")
    if loss is not None:
        loss.add(values, read)
    return written
