"""Packed streams round-trip; unfinished and foreign files are refused; shuffles are permutations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.data.packing import block_order, open_packed, pack
from penjing.errors import DataError, EmptyDataError


@pytest.mark.parametrize(("vocabulary_size", "itemsize"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_round_trip_of_the_largest_token(tmp_path: Path, vocabulary_size: int, itemsize: int) -> None:
    documents = [[1, 2, 3], [], [vocabulary_size - 1]]
    packed = pack(documents, tmp_path / "a.bin", vocabulary_size, separator=0)
    assert packed.tokens.tolist() == [1, 2, 3, 0, vocabulary_size - 1, 0]
    assert packed.tokens.dtype.itemsize == itemsize
    assert (packed.index.num_tokens, packed.index.num_documents) == (6, 2)
    assert open_packed(tmp_path / "a.bin").tokens.tolist() == packed.tokens.tolist()


@given(st.lists(st.lists(st.integers(0, 299), max_size=20), min_size=1, max_size=20), st.integers(1, 7))
def test_blocks_overlap_by_one_and_cover_the_stream(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], length: int
) -> None:
    path = tmp_path_factory.mktemp("packed") / "a.bin"
    if not any(documents):
        with pytest.raises(EmptyDataError):
            pack(documents, path, 300, separator=0)
        return
    packed = pack(documents, path, 300, separator=0)
    stream = [token for document in documents if document for token in [*document, 0]]
    number = packed.num_blocks(length)
    assert number == (len(stream) - 1) // length
    if number:
        blocks = packed.blocks(range(number), length)
        assert blocks.shape == (number, length + 1)
        assert blocks.dtype == np.int64
        assert blocks[:, :-1].reshape(-1).tolist() == stream[: number * length]
        assert blocks[:, 1:].reshape(-1).tolist() == stream[1 : number * length + 1]


def test_tokens_outside_the_vocabulary_leave_nothing_behind(tmp_path: Path) -> None:
    for token in (-1, 100):
        with pytest.raises(DataError, match="outside"):
            pack([[5], [token]], tmp_path / "a.bin", 100, separator=0)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path, index = tmp_path / "a.bin", tmp_path / "a.json"
    with pytest.raises(DataError, match="not a finished packed file"):
        open_packed(path)
    pack([[1, 2, 3]], path, 100, separator=0)
    whole, description = path.read_bytes(), json.loads(index.read_text())
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="its index says 8"):
        open_packed(path)
    path.write_bytes(whole)
    for broken in ("{", "[]", '{"version": 1}', json.dumps({**description, "dtype": "O"})):
        index.write_text(broken)
        with pytest.raises(DataError):
            open_packed(path)


def test_block_order_is_a_seeded_permutation_shared_by_ranks() -> None:
    order = block_order(103, seed=1, epoch=0)
    assert sorted(order.tolist()) == list(range(103))
    assert order.tolist() == block_order(103, seed=1, epoch=0).tolist()
    assert order.tolist() != block_order(103, seed=1, epoch=1).tolist()
    shares = [block_order(103, 1, 0, rank, 4) for rank in range(4)]
    assert {len(share) for share in shares} == {25}
    assert sorted(np.concatenate(shares).tolist()) == sorted(order[:100].tolist())
