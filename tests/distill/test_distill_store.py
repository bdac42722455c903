"""Stores: what is read is what was drawn, killed writers go on, and other stores are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from penjing.artifact.staging import lock_directory
from penjing.distill.draws import draw
from penjing.distill.store import BLOCKS_FILE, STORE_FILE, TABLE_FILE, Knowledge, open_store, text_hash
from penjing.distill.store_writing import write_store
from penjing.errors import (
    KnowledgeStoreError,
    NonFiniteActivationError,
    OutputNotWritableError,
    VocabularyMismatchError,
)

VOCABULARY, LENGTH = 300, 16
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 5 * LENGTH + 1)
ROWS = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3
KNOWLEDGE = Knowledge(
    teacher="a" * 64,
    tokenizer="b" * 64,
    text=text_hash(TOKENS),
    vocabulary_size=VOCABULARY,
    num_blocks=5,
    length=LENGTH,
)


def block(number: int) -> np.ndarray:
    return TOKENS[number * LENGTH : (number + 1) * LENGTH]


def teacher(tokens: torch.Tensor) -> torch.Tensor:
    return ROWS[tokens]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def test_what_is_read_is_what_was_drawn(tmp_path: Path) -> None:
    done: list[int] = []
    store = write_store(tmp_path / "store", KNOWLEDGE, block, teacher, report=done.append)
    assert done == [1, 2, 3, 4, 5]
    ids, counts = store.draws([3, 0])
    assert ids.shape == counts.shape == (2, LENGTH, 12)
    generator = np.random.Generator(np.random.PCG64([0, 3]))
    expected = draw(ROWS[torch.from_numpy(block(3))], 12, generator).padded(12)
    assert np.array_equal(ids[0].numpy(), expected[0])
    assert np.array_equal(counts[0].numpy(), expected[1])
    assert (counts.sum(-1) == 12).all()
    assert store.bytes_per_position < 40
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_killed_writer_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = write_store(tmp_path / "whole", KNOWLEDGE, block, teacher)
    calls: list[int] = []

    def mortal(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return teacher(tokens)

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", KNOWLEDGE, block, mortal)
    unfinished = tmp_path / ".store.unfinished"
    assert not (tmp_path / "store").exists()
    with pytest.raises(KnowledgeStoreError, match="is unfinished"):
        open_store(unfinished)
    with (unfinished / BLOCKS_FILE).open("ab") as blocks:
        blocks.write(b"half a block")
    with (unfinished / TABLE_FILE).open("ab") as table:
        table.write(b"half")
    other = KNOWLEDGE.model_copy(update={"teacher": "c" * 64})
    with pytest.raises(KnowledgeStoreError, match=r"another teacher \(aaaaaaaaaaaa, not cccccccccccc\)"):
        write_store(tmp_path / "store", other, block, teacher)
    again = write_store(tmp_path / "store", KNOWLEDGE, block, mortal)
    assert len(calls) == 6, "three blocks, the killed one, and the two that were missing"
    assert contents(again.path) == contents(whole.path)
    write_store(tmp_path / "store", KNOWLEDGE, block, mortal)
    assert len(calls) == 6, "it is there already"


def test_a_block_that_was_torn_is_written_again(tmp_path: Path) -> None:
    whole = write_store(tmp_path / "store", KNOWLEDGE, block, teacher)
    expected = contents(whole.path)
    del whole
    (tmp_path / "store").rename(tmp_path / ".store.unfinished")
    path = tmp_path / ".store.unfinished" / BLOCKS_FILE
    path.write_bytes(path.read_bytes()[:-1])
    assert contents(write_store(tmp_path / "store", KNOWLEDGE, block, teacher).path) == expected


def test_another_teachers_store_is_refused_by_name(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", KNOWLEDGE, block, teacher)
    store.require(teacher="a" * 64, tokenizer="b" * 64, vocabulary_size=VOCABULARY, length=LENGTH)
    with pytest.raises(KnowledgeStoreError, match="another teacher"):
        store.require(teacher="c" * 64)
    with pytest.raises(KnowledgeStoreError, match="another tokenizer"):
        store.require(tokenizer="c" * 64)
    with pytest.raises(KnowledgeStoreError, match="another text"):
        store.require(text=text_hash(TOKENS[1:]))
    with pytest.raises(KnowledgeStoreError, match=r"another vocabulary size \(300, not 301\)"):
        store.require(vocabulary_size=301)
    with pytest.raises(KnowledgeStoreError, match="another num draws"):
        write_store(store.path, KNOWLEDGE.model_copy(update={"num_draws": 13}), block, teacher)


@pytest.mark.parametrize("place", [0, -1])
def test_damaged_bytes_are_named(tmp_path: Path, place: int) -> None:
    store = write_store(tmp_path / "store", KNOWLEDGE, block, teacher)
    for name, message in ((BLOCKS_FILE, "block . is damaged"), (TABLE_FILE, "is damaged")):
        path = store.path / name
        kept = path.read_bytes()
        damaged = bytearray(kept)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(KnowledgeStoreError, match=f"{name}: {message}"):
            open_store(store.path).draws(range(5))
        path.write_bytes(kept[:-1])
        with pytest.raises(KnowledgeStoreError, match=name):
            open_store(store.path)
        path.unlink()
        with pytest.raises(KnowledgeStoreError, match=f"{name} cannot be read"):
            open_store(store.path)
        path.write_bytes(kept)
    open_store(store.path).draws(range(5))


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeStoreError, match=r"not a store of a teacher's knowledge \(no store\.json"):
        open_store(tmp_path / "nowhere")
    store = write_store(tmp_path / "store", KNOWLEDGE, block, teacher)
    path = store.path / STORE_FILE
    known = json.loads(path.read_text())
    for change, message in (
        ({"version": 2}, "has version 2, this Penjing reads 1"),
        ({"knowledge": known["knowledge"] | {"num_draws": 0}}, "is damaged"),
        ({"surprise": 1}, "is damaged"),
        ({"knowledge": known["knowledge"] | {"num_blocks": 6}}, BLOCKS_FILE),
    ):
        path.write_text(json.dumps(known | change))
        with pytest.raises(KnowledgeStoreError, match=message):
            open_store(store.path)
    path.write_text("[" * 100_000)
    with pytest.raises(KnowledgeStoreError, match="is damaged"):
        open_store(store.path)


def test_teachers_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteActivationError, match="NaN or Inf on block 0"):
        write_store(tmp_path / "store", KNOWLEDGE, block, lambda tokens: ROWS[tokens] / 0)
    with pytest.raises(VocabularyMismatchError, match="299 tokens and the student 300"):
        write_store(tmp_path / "store", KNOWLEDGE, block, lambda tokens: ROWS[tokens][..., 1:])
    lock = lock_directory(tmp_path / ".store.unfinished")
    assert lock is not None
    with pytest.raises(OutputNotWritableError, match="is being written already"):
        write_store(tmp_path / "store", KNOWLEDGE, block, teacher)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritableError, match="cannot be written"):
        write_store(tmp_path / "file" / "store", KNOWLEDGE, block, teacher)


def test_a_texts_hash_is_that_of_its_tokens() -> None:
    assert text_hash(TOKENS) == text_hash(TOKENS.astype("<u2")) != text_hash(TOKENS[:-1])
