"""Safetensors files, read lazily: one header per file, one tensor at a time.

Read directly because numpy has no bfloat16 of its own; the layout is 8 bytes of header length, a JSON header
of dtype, shape and offsets, and the bytes (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from penjing.errors import CorruptCheckpointError, MissingShardError, UnsupportedConfigError

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
METADATA = "__metadata__"  # the header's one entry that is no tensor
MAX_HEADER_BYTES = 100_000_000  # the limit of the format

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` and `nbytes` count bytes in `file`."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def rows(self, name: str, first: int, count: int) -> StoredTensor:
        """Rows first .. first + count - 1 as a matrix of its own; dimensions but the last are one."""
        columns = self.shape[-1]
        row_bytes = self.nbytes // math.prod(self.shape[:-1])
        offset = self.offset + first * row_bytes
        return StoredTensor(name, self.file, self.dtype, (count, columns), offset, count * row_bytes)

    def read(self) -> NDArray[Any]:
        """The tensor in its own dtype (ml_dtypes.bfloat16 for BF16), as memory of its own.

        Raises UnsupportedConfigError for any other dtype than F32, F16 and BF16, CorruptCheckpointError
        if the file ends early or cannot be read.
        """
        dtype = DTYPES.get(self.dtype)
        if dtype is None:
            known = ", ".join(DTYPES)
            raise UnsupportedConfigError(
                f"{self.file}: {self.name} is {self.dtype}; convert it to one of {known}"
            )
        with reading(self.file), self.file.open("rb") as stream:
            stream.seek(self.offset)
            array = np.fromfile(stream, dtype, math.prod(self.shape))
        if array.nbytes != self.nbytes:
            raise CorruptCheckpointError(f"{self.file}: ends inside {self.name}; download it again")
        return array.reshape(self.shape)


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint directory, from a single file or a sharded index.

    Raises MissingShardError or CorruptCheckpointError.
    """
    if not (directory / INDEX_FILE).is_file():
        return read_header(directory / SINGLE_FILE)
    index = read_json(directory / INDEX_FILE)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CorruptCheckpointError(f"{directory / INDEX_FILE}: has no weight_map; download it again")
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
            raise CorruptCheckpointError(f"{directory / INDEX_FILE}: names a file elsewhere: {file!r}")
        header = read_header(directory / file)
        found |= {name: tensor for name, tensor in header.items() if weight_map.get(name, file) == file}
    lacking = sorted(set(weight_map) - set(found))
    if lacking:
        raise CorruptCheckpointError(
            f"{directory / weight_map[lacking[0]]}: {lacking[0]} is not in it, though the index says so; "
            "download it again"
        )
    return found


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file; every offset is checked against the file's size."""
    if not file.is_file():
        pickled = any(file.parent.glob("*.bin"))
        what = "convert its .bin files to safetensors" if pickled else "download the checkpoint again"
        raise MissingShardError(f"{file}: is missing; {what}")
    header, start, size = parse_header(file)
    header.pop(METADATA, None)
    tensors = {name: parse_entry(file, name, entry, start, size) for name, entry in header.items()}
    check_apart(file, tensors)
    return tensors


def read_metadata(file: Path) -> dict[str, Any]:
    """What a file says about itself: texts by name. Raises CorruptCheckpointError."""
    metadata = parse_header(file)[0].get(METADATA, {})
    return metadata if isinstance(metadata, dict) else {}


def parse_header(file: Path) -> tuple[dict[str, Any], int, int]:
    """The header of a file, where its data begins, and its size in bytes. Raises CorruptCheckpointError."""
    with reading(file), file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise CorruptCheckpointError(f"{file}: truncated or not safetensors; download it again")
        text = stream.read(length)
    return parse_json(file, text), 8 + length, size


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn the system's refusals (permissions, a failing disk) into CorruptCheckpointError."""
    try:
        yield
    except OSError as error:
        raise CorruptCheckpointError(
            f"{file}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None


def parse_entry(file: Path, name: str, entry: object, start: int, size: int) -> StoredTensor:
    """One row of the header, or CorruptCheckpointError."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if not all(isinstance(length, int) and length >= 0 for length in shape):
                raise CorruptCheckpointError(f"{file}: {name} has shape {shape}; download it again")
        case _:
            raise CorruptCheckpointError(
                f"{file}: the header's entry of {name} is malformed; download it again"
            )
    if not 0 <= begin <= end or start + end > size:
        raise CorruptCheckpointError(f"{file}: truncated, {name} lies beyond its end; download it again")
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise CorruptCheckpointError(
            f"{file}: {name} has {end - begin} bytes for shape {shape}; download it again"
        )
    return StoredTensor(name, file, dtype, tuple(shape), start + begin, end - begin)


def check_apart(file: Path, tensors: dict[str, StoredTensor]) -> None:
    """No two tensors share bytes."""
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset < end:
            raise CorruptCheckpointError(f"{file}: {tensor.name} overlaps another tensor; download it again")
        end = tensor.offset + tensor.nbytes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CorruptCheckpointError."""
    with reading(path):
        text = path.read_bytes()
    return parse_json(path, text)


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object from bytes. Raises CorruptCheckpointError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{path}: broken JSON ({error}); download it again") from None
    if not isinstance(data, dict):
        raise CorruptCheckpointError(f"{path}: not a JSON object; download it again")
    return data
