"""Batches are a function of their number, cover each epoch once, and share it among ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penjing.data.batches import BlockBatches
from penjing.data.packing import PackedTokens, pack
from penjing.errors import DataError

LENGTH, COUNT = 4, 3


@pytest.fixture
def packed(tmp_path: Path) -> PackedTokens:
    """46 tokens, 11 blocks: 3 batches an epoch, 2 blocks left out of each."""
    return pack([range(1, 46)], tmp_path / "a.bin", 100, separator=0)


def first_tokens(batches: BlockBatches, numbers: range) -> list[int]:
    return [int(token) for number in numbers for token in batches(number)[:, 0]]


def test_an_epoch_has_every_block_at_most_once_and_the_next_another_order(packed: PackedTokens) -> None:
    batches = BlockBatches(packed, LENGTH, COUNT, seed=1)
    assert batches(0).shape == (COUNT, LENGTH + 1)
    assert np.array_equal(batches(0)[:, 1:] - batches(0)[:, :-1], np.ones((COUNT, LENGTH)))
    epochs = [first_tokens(batches, range(3 * epoch, 3 * epoch + 3)) for epoch in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert first_tokens(BlockBatches(packed, LENGTH, COUNT, seed=2), range(3)) != epochs[0]


def test_a_batch_depends_on_its_number_only(packed: PackedTokens) -> None:
    batches = BlockBatches(packed, LENGTH, COUNT)
    expected = batches(7)
    batches(0)
    batches(100)
    assert np.array_equal(batches(7), expected)
    assert np.array_equal(BlockBatches(packed, LENGTH, COUNT)(7), expected)


def test_ranks_that_take_turns_share_an_epoch(packed: PackedTokens) -> None:
    batches = BlockBatches(packed, LENGTH, 1)
    shares = [first_tokens(batches, range(rank, 10, 2)) for rank in range(2)]
    assert not set(shares[0]) & set(shares[1])
    assert len(shares[0]) == len(shares[1]) == 5


def test_too_little_text_is_refused(packed: PackedTokens) -> None:
    with pytest.raises(DataError, match="46 packed tokens make 11 blocks of 4, fewer than a batch of 12"):
        BlockBatches(packed, LENGTH, 12)
    with pytest.raises(DataError, match="at least 1"):
        BlockBatches(packed, 0, 1)
