"""Read text documents from files: plain text, JSON lines, Parquet, or a directory of these.

A document is the unit of everything later: packing separates documents, splits never divide one, and
statistics treat its tokens as correlated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from penjing.errors import DataError, EmptyDataError, MissingExtraError, TextEncodingError

PLAIN_SUFFIXES = frozenset({".txt", ".py", ".md"})
DEFAULT_TOKENS = 16384  # of a text, unless told otherwise: enough for a bound, and minutes on a small model
SUFFIXES = PLAIN_SUFFIXES | {".jsonl", ".parquet"}


@dataclass(frozen=True)
class Document:
    """One text and where it came from: a file, or a file and a row (`notes.jsonl:12`, counted from 1)."""

    text: str
    source: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text in UTF-8, 64 hexadecimal digits: the document's identity in any data set."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a file or a directory (searched in depth, in the order of names).

    A .txt, .py or .md file is one document; each line of a .jsonl file is an object with a string "text"; a
    .parquet file has a string column "text". Documents of white space only are passed over, as are files
    and directories whose names begin with a dot. Errors are raised while iterating: DataError (no such
    path, unknown suffix, a record without text), TextEncodingError (not UTF-8; names the byte),
    EmptyDataError (nothing to yield).
    """
    if not path.exists():
        raise DataError(f"there is no data at {path}: check the path")
    is_empty = True
    for file in files_under(path) if path.is_dir() else [path]:
        for document in read_file(file):
            if document.text.strip():
                is_empty = False
                yield document
    if is_empty:
        raise EmptyDataError(
            f"there is no text in {path}: give {', '.join(sorted(SUFFIXES))} files with text in them"
        )


def files_under(directory: Path) -> list[Path]:
    """Readable files below a directory, sorted, hidden ones left out."""
    relative = sorted(p.relative_to(directory) for p in directory.rglob("*"))
    visible = [
        p for p in relative if p.suffix in SUFFIXES and not any(part.startswith(".") for part in p.parts)
    ]
    return [directory / p for p in visible if (directory / p).is_file()]


def read_file(path: Path) -> Iterator[Document]:
    """Documents of one file, by suffix."""
    if path.suffix in PLAIN_SUFFIXES:
        yield Document(decode(path.read_bytes(), path, 0).removeprefix("\ufeff"), str(path))
    elif path.suffix == ".jsonl":
        yield from read_jsonl(path)
    elif path.suffix == ".parquet":
        yield from read_parquet(path)
    else:
        raise DataError(f"cannot read {path}: its suffix is none of {', '.join(sorted(SUFFIXES))}")


def decode(raw: bytes, path: Path, offset: int) -> str:
    """UTF-8 to text; `offset` is the position of `raw` in the file, for the message."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextEncodingError(
            f"{path} is not UTF-8 at byte {offset + error.start}: convert it to UTF-8"
        ) from error


def read_jsonl(path: Path) -> Iterator[Document]:
    """One document a line, in memory one line at a time; blank lines are passed over."""
    offset = 0
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            line = decode(raw, path, offset).removeprefix("\ufeff")
            offset += len(raw)
            if line.strip():
                yield Document(text_of(line, path, number), f"{path}:{number}")


def text_of(line: str, path: Path, number: int) -> str:
    """The text of one JSON line. Raises DataError, naming the line, for anything else."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise DataError(f'{path}, line {number} has no string "text": each line must be an object with one')
    return text


def read_parquet(path: Path) -> Iterator[Document]:
    """One document a row of column "text", in memory one batch of rows at a time."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow", f"reading {path}") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise DataError(f'{path} has no column "text", only {", ".join(file.schema_arrow.names)}')
        number = 0
        for batch in file.iter_batches(columns=["text"]):
            for text in batch.column(0).to_pylist():
                number += 1
                if not isinstance(text, str):
                    raise DataError(f'{path}, row {number}: "text" is not a string')
                yield Document(text, f"{path}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
