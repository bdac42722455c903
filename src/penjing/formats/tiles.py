"""Tile order (docs/artifact.md): matrices as the kernels read them, 16 output rows at a time.

Codes are unsigned bytes of a padded matrix [N', K']: N' a multiple of 16, K' of whole groups. They are
stored in planes: a code of 5 bits is a low plane of 4 and a high plane of 1.
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


def pack_plane(codes: Bytes, bits: int) -> Bytes:
    """Codes [N', K'] of 1, 2, 4 or 8 bits, K' a multiple of 32 / bits.

    A line of 64 bytes holds 32 / bits columns of 16 rows: (row, k) in byte 64 (k div (32 / bits)) + 4 row +
    (k mod 4), from bit `bits` ((k mod (32 / bits)) div 4) on. So every four columns come out of a line by one
    shift and one mask, and in the order of the plane of 8 bits.
    """
    rows, columns = codes.shape
    quads = 8 // bits
    lines = codes.reshape(rows // TILE_ROWS, TILE_ROWS, columns // (4 * quads), quads, 4)
    packed = np.ascontiguousarray(lines[..., 0, :].transpose(0, 2, 1, 3))
    for quad in range(1, quads):
        packed |= lines[..., quad, :].transpose(0, 2, 1, 3) << (bits * quad)
    return packed.reshape(-1)


def unpack_plane(packed: Bytes, columns: int, bits: int) -> Bytes:
    """Bytes to codes [N', columns], the inverse of `pack_plane`."""
    quads = 8 // bits
    lines = packed.reshape(-1, columns // (4 * quads), TILE_ROWS, 4)
    codes = np.empty((lines.shape[0], TILE_ROWS, lines.shape[1], quads, 4), np.uint8)
    for quad in range(quads):
        codes[..., quad, :] = (lines.transpose(0, 2, 1, 3) >> (bits * quad)) & (2**bits - 1)
    return codes.reshape(-1, columns)


def pack_groups(values: NDArray[Any]) -> NDArray[Any]:
    """One value a group [N', groups] in the order of kernels, [tiles][groups][16] flattened."""
    groups = values.shape[1]
    return np.ascontiguousarray(values.reshape(-1, TILE_ROWS, groups).transpose(0, 2, 1)).reshape(-1)


def unpack_groups(packed: NDArray[Any], groups: int) -> NDArray[Any]:
    """The inverse of `pack_groups`: [N', groups]."""
    return packed.reshape(-1, groups, TILE_ROWS).transpose(0, 2, 1).reshape(-1, groups)
