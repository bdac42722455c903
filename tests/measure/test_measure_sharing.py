"""Threads' shares, as the core cuts them."""

from __future__ import annotations

import pytest

from penjing.measure.sharing import (
    in_chunks,
    longest_rows,
    rows_of_tile,
    share,
    shares_attention,
    tiles,
)


def test_small_work_stays_with_one_thread() -> None:
    assert share(tiles(256), 16 * 256, 4, 2) == (1.0, 0)  # 65,536 multiply-adds are not worth it
    assert share(64, 1 << 20, 4, 1) == (1.0, 0)


def test_large_work_is_shared_evenly() -> None:
    part, loops = share(tiles(11264), 16 * 2048, 4, 2)
    assert 0.5 <= part < 0.52
    assert loops == 1


def test_what_cannot_be_cut_evenly_is_not() -> None:
    """48 tiles in pieces of 32: one thread has 32, the other 16."""
    assert share(48, 1 << 13, 4, 2) == (32 / 48, 1)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 64, 1000])
@pytest.mark.parametrize("work", [1, 1 << 12, 1 << 20])
def test_a_share_is_between_even_and_all(count: int, work: int, threads: int) -> None:
    for multiple in (1, 4):
        part, loops = share(count, work, multiple, threads)
        assert 1 / threads - 1e-9 <= part <= 1 + 1e-9
        assert loops or part == 1


def test_chunks_of_rows() -> None:
    assert not in_chunks(95, 2)
    assert in_chunks(96, 2)
    assert longest_rows(96, 2) == 48  # two chunks of 48
    assert longest_rows(128, 2) == 43 + 42  # three of at most 43: the thread of the first takes the last
    assert longest_rows(512, 2) == 256  # eight of 64
    assert longest_rows(512, 1) == 512


def test_attention_tiles() -> None:
    assert rows_of_tile(32, 4) == 2
    assert rows_of_tile(8, 8) == 8
    assert rows_of_tile(64, 2) == 1
    assert shares_attention(64, 8, 64, 2)
    assert not shares_attention(4, 8, 64, 2)
    assert not shares_attention(64, 8, 64, 1)
