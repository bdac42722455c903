"""Tile order (docs/artifact.md): matrices as the kernels read them, 16 output rows at a time.

Codes are unsigned bytes of a padded matrix [N', K']: N' a multiple of 16, K' a multiple of 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 16  # output rows whose weights share a 64-byte line

Bytes = NDArray[np.uint8]


def padded_rows(rows: int) -> int:
    """Rows rounded up to whole tiles."""
    return -(-rows // TILE_ROWS) * TILE_ROWS


def pack_elements(elements: NDArray[Any]) -> Bytes:
    """Float elements [N', K] to bytes: element (k, row) of a tile at index 16 k + row."""
    rows, columns = elements.shape
    tiles = elements.reshape(rows // TILE_ROWS, TILE_ROWS, columns).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles).reshape(-1).view(np.uint8)


def unpack_elements(packed: Bytes, dtype: np.dtype[Any], columns: int) -> NDArray[Any]:
    """Bytes to float elements [N', columns], the inverse of `pack_elements`."""
    tiles = packed.view(dtype).reshape(-1, columns, TILE_ROWS).transpose(0, 2, 1)
    return tiles.reshape(-1, columns)


def pack_bytes(codes: Bytes) -> Bytes:
    """8-bit codes [N', K']: (row, k) of a tile at byte 64 (k div 4) + 4 row + (k mod 4)."""
    rows, columns = codes.shape
    quads = codes.reshape(rows // TILE_ROWS, TILE_ROWS, columns // 4, 4)
    return np.ascontiguousarray(quads.transpose(0, 2, 1, 3)).reshape(-1)


def unpack_bytes(packed: Bytes, columns: int) -> Bytes:
    """Bytes to 8-bit codes [N', columns], the inverse of `pack_bytes`."""
    quads = packed.reshape(-1, columns // 4, TILE_ROWS, 4)
    return quads.transpose(0, 2, 1, 3).reshape(-1, columns)


def pack_nibbles(codes: Bytes) -> Bytes:
    """4-bit codes [N', K'] below 16: (row, k) of a tile in byte 64 (k div 8) + 4 row + (k mod 4).

    The low nibble holds k mod 8 < 4, the high nibble the other four, so that one load and one shift give
    two operands in the order of `pack_bytes`.
    """
    rows, columns = codes.shape
    octets = codes.reshape(rows // TILE_ROWS, TILE_ROWS, columns // 8, 2, 4).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(octets[..., 0, :] | (octets[..., 1, :] << 4)).reshape(-1)


def unpack_nibbles(packed: Bytes, columns: int) -> Bytes:
    """Bytes to 4-bit codes [N', columns], the inverse of `pack_nibbles`."""
    pairs = packed.reshape(-1, columns // 8, TILE_ROWS, 1, 4)
    octets = np.concatenate([pairs & 15, pairs >> 4], axis=3)
    return octets.transpose(0, 2, 1, 3, 4).reshape(-1, columns)
