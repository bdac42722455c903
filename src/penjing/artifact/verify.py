"""The slow, complete check behind `penjing verify`: every byte is what was written, and makes sense."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.checksum import sha256_of_file
from penjing.artifact.layout import TensorFile
from penjing.artifact.reader import Artifact
from penjing.errors import ChecksumError
from penjing.formats import Encoded
from penjing.formats.tiles import TILE_ROWS, unpack_bytes, unpack_elements, unpack_nibbles

NEUTRAL_CODE = {"int8": 128, "int4": 8, "layered": 8}
ELEMENT_BITS: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.uint32),
    "fp16": np.dtype(np.uint16),
    "bf16": np.dtype(np.uint16),
}
TILES_AT_A_TIME = 64


def verify_artifact(path: str | Path) -> Artifact:
    """Check SHA-256 of every file and tensor, the manifest's hash, scales, vectors and padding.

    Returns the artifact, opened. Raises a subclass of ArtifactError naming the file or tensor.
    """
    artifact = Artifact.open(path, verify="sha256")
    for file in artifact.maps:
        check_file(artifact, file)
    for name, entry in artifact.entries():
        if len(entry.shape) == 2 and not padding_is_neutral(artifact.matrix(name)):
            raise ChecksumError(
                f"{artifact.path}: the padding of {name} is not neutral; write the artifact again"
            )
    return artifact


def check_file(artifact: Artifact, file: TensorFile) -> None:
    """The SHA-256 of a whole tensor file, the gaps between tensors included."""
    if sha256_of_file(artifact.path / file) != artifact.manifest.files[file].sha256:
        raise ChecksumError(
            f"{artifact.path / file}: bytes between its tensors were changed; copy or write it again"
        )


def padding_is_neutral(matrix: Encoded) -> bool:
    """Whether rows and columns beyond the matrix hold neutral codes (zero in float formats) and scales 0."""
    neutral = NEUTRAL_CODE.get(matrix.format, 0)
    for plane in (matrix.codes, matrix.residual):
        if plane is None:
            continue
        for first_row, codes in padded_tiles(matrix, plane):
            beyond = codes[max(0, matrix.rows - first_row) :]
            if (beyond != neutral).any() or (codes[:, matrix.columns :] != neutral).any():
                return False
    if matrix.scales is None:
        return True
    tiles = matrix.scales.reshape(row_tiles(matrix), -1, TILE_ROWS)
    rows_in_last = matrix.rows - (row_tiles(matrix) - 1) * TILE_ROWS
    return not tiles[-1, :, rows_in_last:].any()


def row_tiles(matrix: Encoded) -> int:
    """Tiles of 16 rows."""
    return -(-matrix.rows // TILE_ROWS)


def padded_tiles(matrix: Encoded, plane: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, codes [rows, padded columns]) of the tiles that have padding, a few tiles at a time.

    Without padded columns, only the last tile can have any.
    """
    columns = (
        -(-matrix.columns // matrix.group_size) * matrix.group_size if matrix.group_size else matrix.columns
    )
    tiles = plane.reshape(row_tiles(matrix), -1)
    start = 0 if columns > matrix.columns else len(tiles) - 1
    for first in range(start, len(tiles), TILES_AT_A_TIME):
        packed = tiles[first : first + TILES_AT_A_TIME].reshape(-1)
        yield first * TILE_ROWS, unpack(matrix.format, packed, columns)


def unpack(format: str, packed: NDArray[np.uint8], columns: int) -> NDArray[Any]:
    """Codes, or the bits of elements, [rows, columns] of whole tiles."""
    if format in ELEMENT_BITS:
        return unpack_elements(packed, ELEMENT_BITS[format], columns)
    return unpack_bytes(packed, columns) if format == "int8" else unpack_nibbles(packed, columns)
