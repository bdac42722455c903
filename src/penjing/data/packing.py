"""Token streams packed into a memory-mapped file, read back in blocks.

A packed file NAME.bin is the flat stream of token ids (little-endian uint16, or uint32 for vocabularies
above 65,536), each document followed by the separator. NAME.json is its index, written last, so that a .bin
without .json is known to be unfinished. Block i is the tokens [i * length, i * length + length + 1): it
overlaps the next block by one token, because the last input of a block needs a target.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.errors import DataError, EmptyDataError

INDEX_VERSION = 1


@dataclass(frozen=True)
class PackedIndex:
    """What NAME.json holds: layout of the stream and the separator that ends each document."""

    version: int
    dtype: str
    num_tokens: int
    num_documents: int
    separator: int


@dataclass(frozen=True)
class PackedTokens:
    """A packed stream opened for reading: `tokens` is a read-only memory map, [num_tokens] uint16 or
    uint32.
    """

    index: PackedIndex
    tokens: NDArray[np.unsignedinteger]

    def num_blocks(self, length: int) -> int:
        """How many blocks of `length` inputs and their targets the stream holds."""
        return max(0, (len(self.tokens) - 1) // length)

    def blocks(self, numbers: Sequence[int] | NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The blocks with the given numbers: [len(numbers), length + 1] int64."""
        return np.stack([self.tokens[n * length : n * length + length + 1] for n in numbers]).astype(np.int64)


def pack(
    documents: Iterable[Sequence[int]], path: Path, vocabulary_size: int, separator: int
) -> PackedTokens:
    """Write token-id documents, each followed by `separator`, to `path` (.bin) and its index (.json).

    Streams: memory holds one document. Raises EmptyDataError when no document has a token, and DataError
    for a token id outside the vocabulary.
    """
    dtype = np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")
    num_tokens = num_documents = 0
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with unfinished.open("wb") as out:
            for number, document in enumerate(documents):
                ids = np.asarray(document, dtype=np.int64)
                if not ids.size:
                    continue
                if ids.min() < 0 or ids.max() >= vocabulary_size:
                    raise DataError(f"document {number} has a token id outside [0, {vocabulary_size})")
                out.write(np.append(ids, separator).astype(dtype).tobytes())
                num_tokens += len(ids) + 1
                num_documents += 1
        if not num_documents:
            raise EmptyDataError(f"no tokens to pack into {path}: every document is empty")
        path.with_suffix(".json").unlink(missing_ok=True)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    index = PackedIndex(INDEX_VERSION, dtype.str, num_tokens, num_documents, separator)
    path.with_suffix(".json").write_text(json.dumps(asdict(index), indent=1) + "\n")
    return open_packed(path)


def open_packed(path: Path) -> PackedTokens:
    """Open a packed file written by `pack`. Raises DataError when it is absent, unfinished or of another
    size.
    """
    index_path = path.with_suffix(".json")
    if not path.is_file() or not index_path.is_file():
        raise DataError(
            f"{path} is not a finished packed file ({index_path.name} belongs to it): pack it again"
        )
    try:
        index = PackedIndex(**json.loads(index_path.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{index_path} is not an index of packed tokens: {error}") from error
    if index.version != INDEX_VERSION or index.dtype not in {"<u2", "<u4"}:
        raise DataError(f"{index_path} has version {index.version} and dtype {index.dtype}: pack it again")
    expected = index.num_tokens * np.dtype(index.dtype).itemsize
    if path.stat().st_size != expected:
        raise DataError(f"{path} has {path.stat().st_size} bytes, its index says {expected}: pack it again")
    return PackedTokens(index, np.memmap(path, dtype=np.dtype(index.dtype), mode="r"))


def block_order(
    num_blocks: int, seed: int, epoch: int, rank: int = 0, num_ranks: int = 1
) -> NDArray[np.int64]:
    """Block numbers of one epoch in shuffled order, the share of one rank.

    A function of its arguments only, so a position in training needs no state to be found again. All ranks
    get equally many blocks; the remainder of fewer than `num_ranks` blocks is left out of this epoch.
    """
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_blocks)
    return order[: num_blocks - num_blocks % num_ranks][rank::num_ranks]
