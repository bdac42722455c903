"""Writing a store: beside its place, under the name .NAME.unfinished, and renamed at the end.

A writer that was killed goes on after the last whole block, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.artifact.staging import lock_directory, output_errors, sync
from penjing.distill.draws import draw, pack
from penjing.distill.store import (
    BLOCKS_FILE,
    STORE_FILE,
    TABLE_FILE,
    TABLE_ROW,
    VERSION,
    Knowledge,
    KnowledgeStore,
    StoreFile,
    checked,
    open_store,
    read_store_file,
)
from penjing.distill.vocabulary import check_vocabulary_sizes
from penjing.errors import NonFiniteActivationError, OutputNotWritableError


def write_store(
    directory: Path,
    knowledge: Knowledge,
    block: Callable[[int], NDArray[np.int64]],
    teacher: Callable[[Tensor], Tensor],
    *,
    report: Callable[[int], None] | None = None,
) -> KnowledgeStore:
    """Write the store of a teacher's knowledge, or what is missing of it; open it if it is there already.

    block: the inputs of block i, int64 [length]. teacher: token ids int64 [1, length] to logits [1, length,
    vocabulary]. report: called after each block with the number done. Raises KnowledgeStoreError where
    another store stands or was begun, NonFiniteActivationError for NaN or Inf among the logits,
    VocabularyMismatchError for logits of another width, and OutputNotWritableError.
    """
    if directory.exists():
        store = open_store(directory)
        checked(directory, store.knowledge, knowledge)
        return store
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    with output_errors(directory):
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = lock_directory(unfinished)
    if lock is None:
        raise OutputNotWritableError(f"{directory}: is being written already; wait for that to end")
    try:
        begin(unfinished, knowledge)
        for number in range(keep_whole_blocks(unfinished), knowledge.num_blocks):
            packed = packed_knowledge(knowledge, number, block(number), teacher)
            with output_errors(directory):
                append(unfinished, packed)
            if report is not None:
                report(number + 1)
        with output_errors(directory):
            finish(unfinished, knowledge)
            unfinished.rename(directory)
            sync(directory.parent)
    finally:
        os.close(lock)
    return open_store(directory)


def packed_knowledge(
    knowledge: Knowledge, number: int, tokens: NDArray[np.int64], teacher: Callable[[Tensor], Tensor]
) -> bytes:
    """What the teacher knows of one block; drawn by a generator that is the seed's and the block's own."""
    with torch.no_grad():
        logits = teacher(torch.from_numpy(tokens)[None])[0]
    check_vocabulary_sizes(logits.shape[-1], knowledge.vocabulary_size)
    if not logits.isfinite().all():
        raise NonFiniteActivationError(
            f"the teacher computes NaN or Inf on block {number} of the text: is its checkpoint whole?"
        )
    generator = np.random.Generator(np.random.PCG64([knowledge.seed, number]))
    return pack(draw(logits, knowledge.num_draws, generator), knowledge.vocabulary_size)


def begin(unfinished: Path, knowledge: Knowledge) -> None:
    """Say whose knowledge this will be, or find that it is being written here."""
    if not (unfinished / STORE_FILE).exists():
        write_store_file(unfinished, StoreFile(version=VERSION, knowledge=knowledge))
        return
    checked(unfinished, read_store_file(unfinished).knowledge, knowledge)


def keep_whole_blocks(unfinished: Path) -> int:
    """How many blocks a killed writer left whole; whatever follows them is cut off."""
    table_path, blocks_path = unfinished / TABLE_FILE, unfinished / BLOCKS_FILE
    for path in (table_path, blocks_path):
        path.touch()
    table_bytes, count, start = table_path.read_bytes(), 0, 0
    table = np.frombuffer(
        table_bytes[: len(table_bytes) // TABLE_ROW.itemsize * TABLE_ROW.itemsize], TABLE_ROW
    )
    with blocks_path.open("rb") as blocks:
        for end, crc32 in table.tolist():
            packed = blocks.read(max(0, end - start))
            if start + len(packed) != end or zlib.crc32(packed) != crc32:
                break
            count, start = count + 1, end
    os.truncate(table_path, count * TABLE_ROW.itemsize)
    os.truncate(blocks_path, start)
    return count


def append(unfinished: Path, packed: bytes) -> None:
    """One block's draws, then their row in the table."""
    with (unfinished / BLOCKS_FILE).open("ab") as blocks:
        blocks.write(packed)
        end = blocks.tell()
    with (unfinished / TABLE_FILE).open("ab") as table:
        table.write(np.array([(end, zlib.crc32(packed))], TABLE_ROW).tobytes())


def finish(unfinished: Path, knowledge: Knowledge) -> None:
    """Flush all to disk, and say that it is whole."""
    for name in (BLOCKS_FILE, TABLE_FILE):
        sync(unfinished / name)
    digest = hashlib.sha256((unfinished / TABLE_FILE).read_bytes()).hexdigest()
    write_store_file(unfinished, StoreFile(version=VERSION, knowledge=knowledge, table_sha256=digest))
    sync(unfinished)


def write_store_file(directory: Path, stored: StoreFile) -> None:
    """Write store.json, whole or not at all."""
    with output_errors(directory):
        temporary = directory / f"{STORE_FILE}.unfinished"
        temporary.write_text(stored.model_dump_json(indent=1) + "\n")
        sync(temporary)
        os.replace(temporary, directory / STORE_FILE)
