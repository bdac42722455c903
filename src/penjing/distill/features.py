"""Feature distillation: the student's residual stream follows the teacher's (Romero et al. 2015, Jiao et al.
2020), through a projection that trains along where the two have different widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from penjing.errors import DataError


class FeatureLoss(nn.Module):
    """The student's hidden states against the teacher's, after the pairs of blocks that `matched_blocks`
    names.

    A width that differs gets one projection for all pairs (the residual stream is one space), which begins
    as a random semi-orthogonal map; equal widths have no parameters.
    """

    def __init__(self, student_width: int, teacher_width: int, seed: int = 0) -> None:
        super().__init__()
        self.projection: nn.Parameter | None = None
        if student_width != teacher_width:
            generator = torch.Generator().manual_seed(seed)
            matrix = torch.empty(teacher_width, student_width)
            self.projection = nn.Parameter(nn.init.orthogonal_(matrix, generator=generator))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Mean over pairs of |P s - t|^2 / |t|^2, over the positions that count: 1 is as good as no features.

        Hidden states float32 [sequences, length, width] of as many blocks each as `matched_blocks` gives, the
        teacher's detached; mask: bool [sequences, length] or None. Raises DataError if no position counts.
        """
        losses = []
        for mine, theirs in zip(student, teacher, strict=True):
            features, goal = (mine, theirs) if mask is None else (mine[mask], theirs[mask])
            if not goal.numel():
                raise DataError("no positions count: the mask is false everywhere")
            if self.projection is not None:
                features = functional.linear(features, self.projection)
            losses.append((features - goal).square().sum() / goal.square().sum())
        return torch.stack(losses).mean()


def matched_blocks(num_student: int, num_teacher: int) -> list[int]:
    """For each of the student's blocks, the teacher's block whose output it should have: evenly spaced, the
    last for the last.
    """
    return [-(-(index + 1) * num_teacher // num_student) - 1 for index in range(num_student)]
