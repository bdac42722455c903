"""A teacher's knowledge of a text on disk, so that students learn from a teacher that is never loaded.

A store is a directory of three files: blocks.bin, the packed draws (`draws.pack`) of one block of tokens
after another; table.bin, for each block where it ends in blocks.bin (uint64) and the CRC-32 of its bytes
(uint32), little-endian; and store.json, whose knowledge it is, and the SHA-256 of table.bin, which is there
once all is.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from penjing.data.packing import PackedTokens
from penjing.distill.draws import MOST_DRAWS, unpack
from penjing.distill.vocabulary import tokenizer_hash
from penjing.errors import EmptyDataError, KnowledgeStoreError
from penjing.models.checkpoint import Checkpoint
from penjing.spec import Spec

VERSION = 1
STORE_FILE, TABLE_FILE, BLOCKS_FILE = "store.json", "table.bin", "blocks.bin"
TABLE_ROW = np.dtype([("end", "<u8"), ("crc32", "<u4")])
TEXT_CHUNK = 1 << 20  # tokens hashed at once


class Knowledge(Spec):
    """Whose knowledge of what: two stores of equal `Knowledge` hold draws of the same distributions.

    teacher: `Checkpoint.hash`; tokenizer: `tokenizer_hash`; text: `text_hash`. The text is cut into
    `num_blocks` blocks of `length` inputs (data.packing), and the teacher reads each by itself.
    """

    teacher: str
    tokenizer: str
    text: str
    vocabulary_size: int = Field(gt=0)
    num_blocks: int = Field(gt=0)
    length: int = Field(gt=0)
    num_draws: int = Field(default=12, gt=0, le=MOST_DRAWS)
    seed: int = Field(default=0, ge=0)

    @classmethod
    def of(
        cls, teacher: Checkpoint, text: PackedTokens, length: int, *, num_draws: int = 12, seed: int = 0
    ) -> Knowledge:
        """A teacher's of a text. Raises EmptyDataError for a text of less than a block."""
        if not text.num_blocks(length):
            raise EmptyDataError(f"the text has {len(text.tokens)} tokens, less than a block of {length}")
        return cls(
            teacher=teacher.hash,
            tokenizer=tokenizer_hash(teacher.path),
            text=text_hash(text.tokens),
            vocabulary_size=teacher.config.vocab_size,
            num_blocks=text.num_blocks(length),
            length=length,
            num_draws=num_draws,
            seed=seed,
        )


class StoreFile(Spec):
    """What store.json holds. table_sha256 is None until the store is whole."""

    version: int
    knowledge: Knowledge
    table_sha256: str | None = None


@dataclass(frozen=True, eq=False)
class KnowledgeStore:
    """A store opened for reading; its draws are a memory map. Make one with `open_store`."""

    path: Path
    knowledge: Knowledge
    table: NDArray[np.void]
    packed: NDArray[np.uint8]

    @property
    def bytes_per_position(self) -> float:
        """Of packed draws and table."""
        held = self.packed.nbytes + self.table.nbytes
        return held / (self.knowledge.num_blocks * self.knowledge.length)

    def draws(self, numbers: Sequence[int] | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Drawn ids, int64, and their counts, float32 (0 where a slot is not in use), of the blocks with
        these numbers: [len(numbers), length, num_draws] each.

        Raises KnowledgeStoreError for damaged bytes.
        """
        parts = [self.block(int(number)) for number in numbers]
        ids, counts = (np.stack(arrays) for arrays in zip(*parts, strict=True))
        return torch.from_numpy(ids), torch.from_numpy(counts)

    def block(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Those of one block, [length, num_draws] each."""
        known = self.knowledge
        start = int(self.table["end"][number - 1]) if number else 0
        packed = self.packed[start : int(self.table["end"][number])].tobytes()
        try:
            if zlib.crc32(packed) != self.table["crc32"][number]:
                raise ValueError("its checksum is wrong")
            draws = unpack(packed, known.length, known.num_draws, known.vocabulary_size)
        except ValueError as error:
            raise KnowledgeStoreError(
                f"{self.path / BLOCKS_FILE}: block {number} is damaged ({error}); remove the store and write "
                "it again"
            ) from None
        return draws.padded(known.num_draws)

    def require(
        self,
        *,
        teacher: str | None = None,
        tokenizer: str | None = None,
        text: str | None = None,
        vocabulary_size: int | None = None,
        length: int | None = None,
    ) -> None:
        """Raises KnowledgeStoreError, naming what differs, unless the store has all that is given."""
        wanted = {
            "teacher": teacher,
            "tokenizer": tokenizer,
            "text": text,
            "vocabulary_size": vocabulary_size,
            "length": length,
        }
        found = self.knowledge.model_dump()
        for name, value in wanted.items():
            if value is not None and found[name] != value:
                raise another(self.path, name, found[name], value)


def open_store(directory: Path) -> KnowledgeStore:
    """Open a whole store. Raises KnowledgeStoreError for one that is absent, unfinished, of an unknown
    version, or damaged; the blocks themselves are checked as they are read.
    """
    stored = read_store_file(directory)
    if stored.table_sha256 is None:
        raise KnowledgeStoreError(f"{directory}: is unfinished; write it again")
    try:
        table_bytes = (directory / TABLE_FILE).read_bytes()
        size = (directory / BLOCKS_FILE).stat().st_size
    except OSError as error:
        raise KnowledgeStoreError(
            f"{directory}: {error.filename} cannot be read ({error.strerror})"
        ) from None
    if hashlib.sha256(table_bytes).hexdigest() != stored.table_sha256:
        raise KnowledgeStoreError(
            f"{directory / TABLE_FILE}: is damaged; remove the store and write it again"
        )
    table = np.frombuffer(table_bytes, TABLE_ROW)
    if len(table) != stored.knowledge.num_blocks or size != table["end"][-1]:
        raise KnowledgeStoreError(
            f"{directory / BLOCKS_FILE}: has {size} bytes of {table['end'][-1]}; write the store again"
        )
    return KnowledgeStore(directory, stored.knowledge, table, np.memmap(directory / BLOCKS_FILE, mode="r"))


def read_store_file(directory: Path) -> StoreFile:
    """store.json of a store or of an unfinished one. Raises KnowledgeStoreError."""
    path = directory / STORE_FILE
    try:
        stored = StoreFile.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise KnowledgeStoreError(
            f"{directory}: is not a store of a teacher's knowledge (no {STORE_FILE}: {error.strerror})"
        ) from None
    except (ValidationError, ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise KnowledgeStoreError(f"{path}: is damaged ({reason}); write the store again") from None
    if stored.version != VERSION:
        raise KnowledgeStoreError(
            f"{path}: has version {stored.version}, this Penjing reads {VERSION}; write the store again"
        )
    return stored


def checked(path: Path, found: Knowledge, wanted: Knowledge) -> None:
    """Raises KnowledgeStoreError, naming what differs, unless the two are equal."""
    for name, value in wanted.model_dump().items():
        if getattr(found, name) != value:
            raise another(path, name, getattr(found, name), value)


def another(path: Path, name: str, found: object, wanted: object) -> KnowledgeStoreError:
    """That a store is of another teacher, or another text, or another something."""
    short_found, short_wanted = (str(value)[:12] for value in (found, wanted))
    return KnowledgeStoreError(
        f"{path}: is the store of another {name.replace('_', ' ')} ({short_found}, not {short_wanted}); "
        "remove it or choose another directory"
    )


def text_hash(tokens: NDArray[np.unsignedinteger] | NDArray[np.int64]) -> str:
    """SHA-256 (hex) of a stream of token ids [n], as little-endian uint32, whatever its dtype."""
    digest = hashlib.sha256()
    for start in range(0, len(tokens), TEXT_CHUNK):
        digest.update(np.ascontiguousarray(tokens[start : start + TEXT_CHUNK], "<u4").tobytes())
    return digest.hexdigest()
