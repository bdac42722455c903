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
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.artifact.staging import StagingDirectory, output_errors, sync
from penjing.errors import CorruptCheckpointError, FormatError
from penjing.models.shards import METADATA, read_metadata
from penjing.spec import FloatFormat

DTYPES: dict[FloatFormat, tuple[str, str, Any]] = {
    "bf16": ("BF16", "bfloat16", ml_dtypes.bfloat16),
    "fp16": ("F16", "float16", np.float16),
    "fp32": ("F32", "float32", np.float32),
}
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FILES_KEY = "penjing.files"  # in the metadata of the weights: a JSON list of the names beside them
NOT_OURS = "is not a checkpoint that Penjing wrote"
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


def write_directory(
    out: Path,
    config: dict[str, Any],
    tensors: Sequence[WeightsTensor],
    text_files: Sequence[Path],
    *,
    source: str,
    force: bool,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write the whole directory, under its name when it is complete. Raises OutputError.

    text_files: copied as they are. source: the hash of what the weights came from, for the header.
    """
    staging = StagingDirectory(out, force=force, objection=objection_to_replacing)
    staging.create()
    try:
        with output_errors(out):
            head = header(tensors, [CONFIG_FILE, *(file.name for file in text_files)], source)
            write_weights(staging.path / WEIGHTS_FILE, head, tensors, progress)
            (staging.path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            for file in text_files:
                shutil.copyfile(file, staging.path / file.name)
        staging.publish()
    finally:
        staging.discard()


def objection_to_replacing(path: Path) -> str | None:
    """Why `force` may not replace a directory; None for one of ours and nothing else, or an empty one."""
    if not path.is_dir():
        return NOT_OURS
    present = {entry.name for entry in path.iterdir()}
    if not present:
        return None
    try:
        listed = set(json.loads(read_metadata(path / WEIGHTS_FILE)[FILES_KEY]))
    except (CorruptCheckpointError, LookupError, TypeError, ValueError, RecursionError):
        return NOT_OURS
    foreign = sorted(present - listed - {WEIGHTS_FILE})
    return f"holds {foreign[0]!r}, which is no part of the checkpoint" if foreign else None


def write_weights(
    path: Path,
    head: bytes,
    tensors: Sequence[WeightsTensor],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Stream every tensor to one safetensors file."""
    with path.open("xb") as file:
        file.write(head)
        for done, tensor in enumerate(tensors):
            begin = file.tell()
            for run in tensor.runs():
                file.write(np.ascontiguousarray(run).reshape(-1).view(np.uint8).data)
            assert file.tell() - begin == tensor.nbytes, tensor.name
            if progress is not None:
                progress("export", done + 1, len(tensors))
    sync(path)


def header(tensors: Sequence[WeightsTensor], files: Sequence[str], source: str) -> bytes:
    """Length and JSON of a safetensors header; spaces align the data to 8 bytes.

    The header names the source and the files written beside the weights: who writes there again knows its
    own by that.
    """
    table: dict[str, Any] = {
        METADATA: {"format": "pt", "penjing": source, FILES_KEY: json.dumps(list(files))}
    }
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


class Loss(Protocol):
    """Told what rounding did."""

    def add(self, meant: NDArray[np.float32], written: NDArray[np.float32]) -> None:
        """Numbers before and after."""


def rounded(
    values: NDArray[np.float32], dtype: FloatFormat, name: str, loss: Loss | None = None
) -> NDArray[Any]:
    """Numbers in another dtype; `loss` is told what that cost. Raises FormatError beyond its range."""
    with np.errstate(over="ignore"):
        written: NDArray[Any] = values.astype(DTYPES[dtype][2])
    read = written.astype(np.float32)
    if not np.isfinite(read).all():
        raise FormatError(f"{name} is beyond the range of {dtype}; choose bf16 or fp32")
    if loss is not None:
        loss.add(values, read)
    return written
