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
from penjing.formats.encoded import PLANE_BITS
from penjing.formats.packing import NEUTRAL_RESIDUAL, neutral_code
from penjing.formats.tiles import TILE_ROWS, unpack_elements, unpack_groups, unpack_plane

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
    for file in artifact.files:
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
    """Whether rows and columns beyond the matrix hold neutral codes (zero in float formats).

    Rows beyond it also have scales and zero points 0.
    """
    for plane, bits, neutral in planes(matrix):
        for first_row, codes in padded_tiles(matrix, plane, bits):
            beyond = codes[max(0, matrix.rows - first_row) :]
            if (beyond != neutral).any() or (codes[:, matrix.columns :] != neutral).any():
                return False
    for part in (matrix.scales, matrix.zeros):
        if part is not None:
            groups = matrix.padded_columns // matrix.group_size
            if unpack_groups(part, groups)[matrix.rows :].any():
                return False
    return True


def planes(matrix: Encoded) -> Iterator[tuple[NDArray[np.uint8], int, int]]:
    """(bytes, bits of a code, its neutral value) of every plane; a float matrix is one, of 0 bits."""
    if matrix.format not in PLANE_BITS:
        yield matrix.codes, 0, 0
        return
    low_bits, high_bits = PLANE_BITS[matrix.format]
    neutral = neutral_code(matrix.format, matrix.asymmetric)
    yield matrix.codes, low_bits, neutral % 2**low_bits
    if matrix.high is not None:
        yield matrix.high, high_bits, neutral >> low_bits
    if matrix.residual is not None:
        yield matrix.residual, low_bits, NEUTRAL_RESIDUAL


def padded_tiles(matrix: Encoded, plane: NDArray[np.uint8], bits: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, codes or bits of elements [rows, padded columns]) of the tiles that have padding.

    A few tiles at a time. Without padded columns, only the last tile can have any.
    """
    columns = matrix.padded_columns
    tiles = plane.reshape(-(-matrix.rows // TILE_ROWS), -1)
    start = 0 if columns > matrix.columns else len(tiles) - 1
    for first in range(start, len(tiles), TILES_AT_A_TIME):
        packed = tiles[first : first + TILES_AT_A_TIME].reshape(-1)
        if bits:
            yield first * TILE_ROWS, unpack_plane(packed, columns, bits)
        else:
            yield first * TILE_ROWS, unpack_elements(packed, ELEMENT_BITS[matrix.format], columns)
