"""How many weights stay, and among which they are chosen: a fraction, or N of every M neighbours."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from penjing.errors import SpecError
from penjing.spec import Spec


class Sparsity(Spec):
    """keep: the fraction of weights that stay. group: None for a plain fraction, or M for a pattern N:M.

    A pattern *keeps* `keep` x M weights of every M consecutive inputs of a row; 1:4 leaves a quarter.
    """

    keep: float = Field(default=0.5, ge=0, le=1)
    group: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def check_whole(self) -> Self:
        """A group keeps a whole number of weights."""
        if self.group is not None and abs(self.keep * self.group - round(self.keep * self.group)) > 1e-6:
            raise ValueError(f"keeping {self.keep} of every {self.group} weights is not a whole number")
        return self

    @classmethod
    def of(cls, text: str) -> Sparsity:
        """`0.5` or `2:4`. Raises SpecError."""
        number, colon, group = text.partition(":")
        try:
            if not colon:
                return cls(keep=float(number))
            return cls(keep=int(number) / int(group), group=int(group))
        except (ValueError, ZeroDivisionError):
            raise SpecError(
                f"sparsity {text!r}: give the fraction to keep (0.5), or N:M with N <= M to keep N of "
                "every M (2:4)"
            ) from None


def keep_mask(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """True at the highest scores of every group, or of every row without groups; bool [N, K] of [N, K].

    Exactly as many as were asked for, the first among equals: comparing with a threshold keeps more where
    scores repeat. A last group that is short of M is one of M whose missing weights score lowest.
    """
    rows, columns = scores.shape
    group = sparsity.group or columns
    padded = torch.nn.functional.pad(scores, (0, -columns % group), value=-torch.inf)
    kept = highest(padded.reshape(rows, -1, group), round(sparsity.keep * group))
    return kept.reshape(rows, -1)[:, :columns]


def highest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` highest of the last dimension, the first among equals; bool [..., n]."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)
