"""A guess at what formats lose, by weights alone: for machines without torch, which runs no gradients.

The loss of a group in a format is taken to be its matrices' relative squared rounding error, of some of their
rows, times a constant. It knows which matrices round badly and not which of them matter; measurements correct
the constant, and nothing corrects the order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penjing.errors import FormatError
from penjing.formats import decode, encode
from penjing.models import Checkpoint
from penjing.optimize.choices import groups_of
from penjing.optimize.progress import Progress, silent
from penjing.quantize.assignment import KEEP, label
from penjing.spec import WeightFormat

NATS = 0.2  # of a token, for one group whose rounding error is as large as its weights
ROWS = 64  # of a matrix
STAGE = "loss by group, from weights alone"


def weight_losses(
    checkpoint: Checkpoint, formats: Sequence[WeightFormat], progress: Progress = silent
) -> dict[str, dict[str, float]]:
    """Group -> format label -> guessed nats a token. A format that cannot hold the weights is left out.

    Raises CheckpointError.
    """
    groups = groups_of(checkpoint.config)
    found: dict[str, dict[str, float]] = {}
    for index, (name, matrices) in enumerate(groups):
        progress(STAGE, index, len(groups))
        sampled = [sample(checkpoint.read(matrix)) for matrix in matrices]
        found[name] = {label(KEEP): 0.0}
        for format in formats:
            if format == KEEP:
                continue
            try:
                found[name][label(format)] = NATS * sum(relative_error(part, format) for part in sampled)
            except FormatError:
                continue
    progress(STAGE, len(groups), len(groups))
    return found


def sample(matrix: NDArray[np.generic]) -> NDArray[np.float32]:
    """Evenly spaced rows, float32 [at most 64, K]."""
    return np.asarray(matrix[:: max(1, len(matrix) // ROWS)][:ROWS], np.float32)


def relative_error(weight: NDArray[np.float32], format: WeightFormat) -> float:
    """|W - Q(W)|^2 / |W|^2."""
    total = float(np.square(weight, dtype=np.float64).sum())
    difference = weight - decode(encode(weight, format, "search", "a sample"))
    return float(np.square(difference, dtype=np.float64).sum()) / total if total else 0.0
