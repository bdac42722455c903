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


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@given(seed=seeds, num_tiles=counts, groups=counts)
def test_planes_round_trip_and_stand_where_the_document_says(
    bits: int, seed: int, num_tiles: int, groups: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (16 * num_tiles, 32 * groups), np.uint8)
    packed = tiles.pack_plane(codes, bits)
    columns = codes.shape[1]
    assert packed.size == codes.size * bits // 8
    assert np.array_equal(tiles.unpack_plane(packed, columns, bits), codes)
    row, k = np.indices(codes.shape)
    line = 32 // bits  # columns of 64 bytes
    place = (row // 16) * 2 * bits * columns + 64 * (k // line) + 4 * (row % 16) + k % 4
    assert np.array_equal(packed[place] >> (bits * (k % line // 4)) & (2**bits - 1), codes)


@given(seeds, counts, counts)
def test_groups_round_trip_and_stand_where_the_document_says(seed: int, num_tiles: int, groups: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (16 * num_tiles, groups), np.uint8)
    packed = tiles.pack_groups(values)
    assert np.array_equal(tiles.unpack_groups(packed, groups), values)
    row, group = np.indices(values.shape)
    assert np.array_equal(packed[((row // 16) * groups + group) * 16 + row % 16], values)


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
