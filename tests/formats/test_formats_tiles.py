"""Tile order against the byte positions that docs/artifact.md states."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.formats import tiles

counts = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


def random_codes(seed: int, num_tiles: int, octets: int, limit: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, limit, (16 * num_tiles, 8 * octets), np.uint8)


@given(seeds, counts, counts)
def test_bytes_round_trip_and_stand_where_the_document_says(seed: int, num_tiles: int, octets: int) -> None:
    codes = random_codes(seed, num_tiles, octets, 256)
    packed = tiles.pack_bytes(codes)
    columns = codes.shape[1]
    assert np.array_equal(tiles.unpack_bytes(packed, columns), codes)
    row, k = np.indices(codes.shape)
    place = (row // 16) * 16 * columns + 64 * (k // 4) + 4 * (row % 16) + k % 4
    assert np.array_equal(packed[place], codes)


@given(seeds, counts, counts)
def test_nibbles_round_trip_and_stand_where_the_document_says(seed: int, num_tiles: int, octets: int) -> None:
    codes = random_codes(seed, num_tiles, octets, 16)
    packed = tiles.pack_nibbles(codes)
    columns = codes.shape[1]
    assert packed.size == codes.size // 2
    assert np.array_equal(tiles.unpack_nibbles(packed, columns), codes)
    row, k = np.indices(codes.shape)
    place = (row // 16) * 8 * columns + 64 * (k // 8) + 4 * (row % 16) + k % 4
    assert np.array_equal(np.where(k % 8 < 4, packed[place] & 15, packed[place] >> 4), codes)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@given(seed=seeds, num_tiles=counts, columns=st.integers(1, 9))
def test_elements_round_trip(dtype: Any, seed: int, num_tiles: int, columns: int) -> None:
    elements = np.random.default_rng(seed).standard_normal((16 * num_tiles, columns)).astype(dtype)
    packed = tiles.pack_elements(elements)
    assert np.array_equal(tiles.unpack_elements(packed, np.dtype(dtype), columns), elements)
    row, k = np.indices(elements.shape)
    assert np.array_equal(packed.view(dtype)[(row // 16) * 16 * columns + 16 * k + row % 16], elements)


def test_rows_are_padded_to_whole_tiles() -> None:
    assert [tiles.padded_rows(rows) for rows in (1, 15, 16, 17, 32)] == [16, 16, 16, 32, 32]
