"""What a method of quantization knows of the inputs that its matrix reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from penjing.errors import DataError


@dataclass(frozen=True, eq=False)
class InputStatistics:
    """Second moments of one input, which several matrices may read.

    gram: float32 [K, K], the sum over tokens of x^ x^T, x^ being the inputs on the quantized path. cross:
    float32 [K, K], the sum of x x^^T, x being the original's inputs (rows) to the same tokens; None where
    both paths are the same. tokens: how many were summed.
    """

    gram: Tensor
    cross: Tensor | None
    tokens: int

    @property
    def importance(self) -> Tensor:
        """Mean square of each input, float32 [K]: what an error in a column of the matrix costs by itself."""
        return self.gram.diagonal() / max(self.tokens, 1)

    @cached_property
    def factors(self) -> dict[tuple[float, bool], tuple[Tensor, Tensor]]:
        """Factors found so far (`feedback_factor`): matrices that read one input share them."""
        return {}


def check_statistics(weight: Tensor, statistics: InputStatistics) -> None:
    """Raise DataError where the statistics are not finite, or not of this matrix's inputs."""
    columns = weight.shape[1]
    if tuple(statistics.gram.shape) != (columns, columns):
        shape = list(statistics.gram.shape)
        raise DataError(f"a Gram matrix {shape} does not belong to a matrix of {columns} columns")
    for name, moments in (("Gram", statistics.gram), ("cross-Gram", statistics.cross)):
        if moments is not None and not bool(torch.isfinite(moments).all()):
            raise DataError(f"NaN or Inf in the {name} matrix: an activation of the model is not finite")


def gram_errors(difference: Tensor, gram: Tensor) -> Tensor:
    """Squared error of each row's output over all tokens: diag(D G D^T), float32 [N] of D [N, K]."""
    return ((difference @ gram) * difference).sum(1)


def damped(gram: Tensor, fraction: float) -> Tensor:
    """The Gram matrix in double precision, with `fraction` of its mean diagonal added to the diagonal.

    An input that never fired gets that much, and a Gram of zeros the identity: the result is positive
    definite up to rounding.
    """
    result = gram.to(torch.double, copy=True)
    extra = fraction * float(result.diagonal().mean())
    result.diagonal().add_(extra if extra > 0 else 1.0)
    return result


def excess_error(quantized: Tensor, weight: Tensor, statistics: InputStatistics) -> float:
    """sum |W x - Q x^|^2 - sum |W x - W x^|^2 over all tokens: what Q costs beyond the drift of its inputs.

    Without a cross-Gram both inputs are the same, and it is the squared error itself. Negative where Q makes
    up for drift.
    """
    change = quantized - weight
    pull = change @ statistics.gram
    if statistics.cross is not None:
        pull = pull - 2 * (weight @ (statistics.cross - statistics.gram))
    return float((pull * change).sum(dtype=torch.double))
