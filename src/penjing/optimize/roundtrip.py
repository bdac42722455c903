"""The round-trip gate: what the engine will compute with is what the quantizer meant.

For every matrix one tile of rows is read from the checkpoint, quantized and decoded in memory, and compared
bit for bit with the same rows of the artifact as the serving kernels dequantize them: the file, its layout,
its offsets and the kernels all lie in between. Vectors are compared whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from penjing import kernels
from penjing.artifact import Artifact, expected_tensors
from penjing.errors import ArtifactError
from penjing.formats import Encoded, decode
from penjing.formats.tiles import TILE_ROWS
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, silent
from penjing.quantize.assignment import assign_formats
from penjing.quantize.walk import encode_without_data
from penjing.spec import QuantizeStep, Tier


def check_round_trip(
    artifact: Artifact, checkpoint: Checkpoint, step: QuantizeStep, progress: Progress = silent
) -> None:
    """Raises ArtifactError, naming the tensor, unless an artifact holds what `step` makes of a checkpoint.

    step: of a method without data; `penjing.optimize.gate` is for the others.
    """
    roles, formats = expected_tensors(artifact.config), assign_formats(artifact.config, step)
    for done, (name, role) in enumerate(roles.items()):
        source = checkpoint.read(name)
        if role.is_matrix:
            # A different tile of each matrix, so that no row range of the layout goes unseen.
            tile = done % -(-role.shape[0] // TILE_ROWS)
            rows = range(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, role.shape[0]))
            stored = artifact.matrix(name)
            part = source[rows.start : rows.stop]
            meant = encode_without_data(part, formats[name], step, name, stored.table)
            same = all(rows_equal(stored, decode(meant, tier), rows, tier) for tier in artifact.tiers)
        else:
            same = bool(np.array_equal(artifact.vector(name), source.astype(np.float32)))
        if not same:
            raise ArtifactError(
                f"{artifact.path}: {name} does not read back as it was quantized; "
                "report this with the model's name, and do not use the artifact"
            )
        progress("round trip", done + 1, len(roles))


def rows_equal(stored: Encoded, meant: NDArray[np.float32], rows: range, tier: Tier) -> bool:
    """Whether the kernels dequantize these rows of a stored matrix to what was meant, bit for bit."""
    return bool(np.array_equal(kernel_rows(stored, rows, tier), meant))


def kernel_rows(stored: Encoded, rows: Iterable[int], tier: Tier) -> NDArray[np.float32]:
    """Rows of a stored matrix as the kernels dequantize them, float32 [rows, K]."""
    matrix = kernels.Matrix(
        stored.format,
        stored.rows,
        stored.columns,
        stored.group_size,
        stored.codes,
        stored.scales,
        stored.residual,
        stored.high,
        stored.zeros,
        stored.table,
    )
    read: list[NDArray[np.float32]] = [kernels.dequantize_row(matrix, row, tier) for row in rows]
    return np.stack(read)
