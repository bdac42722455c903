"""Data parallel training: the processes that share one run, each with a part of every step's batches.

Sums over two ranks do not depend on the order of addition, so a run with two ranks is as reproducible as
with one. Separate single-threaded processes also beat threads on a shared machine: they meet once a step,
not once an operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

# A paused process must not end the run: the others wait for as long as it takes.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; every rank calls the same methods in the same order."""

    rank: int = 0
    size: int = 1

    def sum(self, value: float) -> float:
        """The sum of one number over all ranks, in float64."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item()

    def sum_gradients(self, model: nn.Module) -> None:
        """Replace each gradient of a trainable parameter by its sum over all ranks; an absent one counts as
        zero.
        """
        if self.size == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


SINGLE = Ranks()


@contextmanager
def joined(rank: int, size: int, meeting_file: Path) -> Iterator[Ranks]:
    """Join the other ranks through a file that all can see and none has used before; leave at the end."""
    if size == 1:
        yield SINGLE
        return
    meeting = meeting_file.absolute().as_uri()
    distributed.init_process_group("gloo", meeting, PATIENCE, size, rank)
    try:
        yield Ranks(rank, size)
    finally:
        distributed.destroy_process_group()
