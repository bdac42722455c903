"""The GGUF container, version 3: a header, keys with values, a table of tensors, and their data, aligned.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Keys here have the types that readers ask for: a
whole number is uint32, in a list int32; other numbers are float32.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from penjing.export.gguf.blocks import GGML_TYPES

Value = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
OWN_KEY = "penjing.artifact"  # the first key: a later export knows its own files by it
STRING, ARRAY = 8, 9
CODECS: dict[type, tuple[int, str]] = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
LIST_CODECS: dict[type, tuple[int, str]] = {**CODECS, int: (5, "<i")}


@dataclass(frozen=True)
class FileTensor:
    """A tensor to write: shape as in numpy, the ggml type by name, and its bytes, run by run."""

    name: str
    shape: tuple[int, ...]
    type: str
    runs: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def nbytes(self) -> int:
        """Of its data."""
        *rows, columns = self.shape
        return int(np.prod(rows, dtype=np.int64)) * GGML_TYPES[self.type].row_bytes(columns)


def write_file(
    path: Path,
    keys: Mapping[str, Value],
    tensors: Sequence[FileTensor],
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write everything; `progress` gets `export`, the number of tensors done, and that of all."""
    with path.open("xb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(keys)))
        for key, value in keys.items():
            file.write(text(key) + encoded(value))
        offset = 0
        for tensor in tensors:
            dims = tensor.shape[::-1]
            file.write(text(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
            file.write(struct.pack("<IQ", GGML_TYPES[tensor.type].number, offset))
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        align(file)
        for done, tensor in enumerate(tensors):
            begin = file.tell()
            for run in tensor.runs():
                file.write(np.ascontiguousarray(run).data)
            assert file.tell() - begin == tensor.nbytes, tensor.name
            align(file)
            if progress is not None:
                progress("export", done + 1, len(tensors))


def align(file: BinaryIO) -> None:
    """Zeros up to the next aligned place."""
    file.write(bytes(-file.tell() % ALIGNMENT))


def text(value: str) -> bytes:
    """A string with its length."""
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def encoded(value: Value) -> bytes:
    """The type of a value, and the value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, bool | int | float):
        kind, layout = CODECS[type(value)]
        return struct.pack("<I", kind) + struct.pack(layout, value)
    head = struct.pack("<I", ARRAY)
    if not value or isinstance(value[0], str):
        return head + struct.pack("<IQ", STRING, len(value)) + b"".join(text(str(item)) for item in value)
    kind, layout = LIST_CODECS[type(value[0])]
    items = struct.pack(f"<{len(value)}{layout[1]}", *value)
    return head + struct.pack("<IQ", kind, len(value)) + items


def is_own_file(path: Path) -> bool:
    """Whether Penjing wrote this GGUF file."""
    head = struct.pack("<IQQ", VERSION, 0, 0)
    start = len(MAGIC) + len(head)
    try:
        with path.open("rb") as file:
            data = file.read(start + len(text(OWN_KEY)))
    except OSError:
        return False
    return data.startswith(MAGIC) and data[start:] == text(OWN_KEY)
