"""What an export did to the numbers: which formats became which, and how far off the written weights are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Conversion:
    """All matrices that went from one format to another.

    largest_error: the largest difference of a weight, over the largest weight of its tensor, in the tensor
    where that is worst. rms_error: the root of the squared differences over the squared weights, all tensors
    together. Both are 0 where nothing was lost.
    """

    source: str
    target: str
    tensors: int
    largest_error: float
    rms_error: float

    def __str__(self) -> str:
        many = "1 matrix" if self.tensors == 1 else f"{self.tensors} matrices"
        lost = f"largest error {self.largest_error:.1e} of the largest weight, RMS {self.rms_error:.1e}"
        return f"{many}: {self.source} -> {self.target}, {'exact' if self.largest_error == 0 else lost}"


@dataclass(frozen=True)
class Exported:
    """An export: where it is, what became of the matrices, and what its readers compute otherwise."""

    path: Path
    conversions: tuple[Conversion, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """What there is to say of it, a line each."""
        yield from map(str, self.conversions)
        yield from self.notes


@dataclass
class Loss:
    """Differences of one tensor, or of several, gathered piece by piece."""

    largest_error: float = 0.0
    largest_weight: float = 0.0
    squared_error: float = 0.0
    squared_weights: float = 0.0

    def add(self, meant: NDArray[np.float32], written: NDArray[np.float32]) -> None:
        """Compare a piece of what an artifact means with what was written for it; equal shapes."""
        if meant.size == 0:
            return
        error = np.abs(meant - written)
        self.largest_error = max(self.largest_error, float(error.max()))
        self.largest_weight = max(self.largest_weight, float(np.abs(meant).max()))
        self.squared_error += float(np.square(error, dtype=np.float64).sum())
        self.squared_weights += float(np.square(meant, dtype=np.float64).sum())


@dataclass
class Ledger:
    """Conversions, as they happen."""

    entries: dict[tuple[str, str], list[Loss]] = field(default_factory=dict)

    def open(self, source: str, target: str) -> Loss:
        """The account of one more tensor."""
        loss = Loss()
        self.entries.setdefault((source, target), []).append(loss)
        return loss

    def conversions(self) -> tuple[Conversion, ...]:
        """The sums, in the order of first use."""
        return tuple(summed(*formats, losses) for formats, losses in self.entries.items())


def summed(source: str, target: str, losses: list[Loss]) -> Conversion:
    """Tensors that went the same way."""
    weights = sum(loss.squared_weights for loss in losses)
    errors = sum(loss.squared_error for loss in losses)
    worst = max(loss.largest_error / loss.largest_weight if loss.largest_weight else 0.0 for loss in losses)
    return Conversion(source, target, len(losses), worst, (errors / weights) ** 0.5 if weights else 0.0)
