"""The round-trip gate: what the engine will compute with is what the quantizer meant.

For every matrix one tile of rows is read from the checkpoint, quantized and decoded in memory, and compared
bit for bit with the same rows of the artifact as the serving kernels dequantize them: the file, its layout,
its offsets and the kernels all lie in between. Vectors are compared whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penjing import kernels
from penjing.artifact import Artifact, expected_tensors
from penjing.errors import ArtifactError
from penjing.formats import Encoded, decode, encode
from penjing.formats.tiles import TILE_ROWS
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, silent
from penjing.quantize.walk import format_of
from penjing.spec import QuantizeStep, Tier


def check_round_trip(
    artifact: Artifact, checkpoint: Checkpoint, step: QuantizeStep, progress: Progress = silent
) -> None:
    """Raises ArtifactError, naming the tensor, unless an artifact holds what `step` makes of a checkpoint."""
    roles = expected_tensors(artifact.config)
    for done, (name, role) in enumerate(roles.items()):
        source = checkpoint.read(name)
        if role.is_matrix:
            # A different tile of each matrix, so that no row range of the layout goes unseen.
            tile = done % -(-role.shape[0] // TILE_ROWS)
            rows = range(tile * TILE_ROWS, min((tile + 1) * TILE_ROWS, role.shape[0]))
            chosen = format_of(step, name, role)
            stored = artifact.matrix(name)
            meant = encode(source[rows.start : rows.stop], chosen, step.scales, name, stored.table)
            same = all(_rows_equal(stored, meant, rows, tier) for tier in artifact.tiers)
        else:
            same = bool(np.array_equal(artifact.vector(name), source.astype(np.float32)))
        if not same:
            raise ArtifactError(
                f"{artifact.path}: {name} does not read back as it was quantized; "
                "report this with the model's name, and do not use the artifact"
            )
        progress("round trip", done + 1, len(roles))


def _rows_equal(stored: Encoded, meant: Encoded, rows: range, tier: Tier) -> bool:
    """Whether the kernels dequantize these rows of a stored matrix to what was meant, bit for bit."""
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
    return bool(np.array_equal(np.stack(read), decode(meant, tier)))
