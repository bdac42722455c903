"""Data parallel training: the processes that share one run, each with a part of every step's batches.

Sums over two ranks do not depend on the order of addition, so a run with two ranks is as reproducible as
with one. Separate single-threaded processes also beat threads on a shared machine: they meet once a step,
not once an operator.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from penjing.errors import SpecError

# A paused process must not end the run: the others wait for as long as it takes.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; every rank calls the same methods in the same order.

    Here every rank holds the whole model. `sharding.ShardedRanks` is for models of which each holds a part;
    `whole`, `part` and `sum_of_squares` are all that the rest of training sees of the difference.
    """

    rank: int = 0
    size: int = 1

    def sum(self, value: float) -> float:
        """The sum of one number over all ranks, in float64."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum(float(flag)) > 0

    def gather(self, values: Sequence[float]) -> list[float]:
        """The values of all ranks, rank by rank; ranks may have different numbers of them."""
        if self.size == 1:
            return list(values)
        parts: list[list[float]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(parts, list(values))
        return [value for part in parts for value in part]

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

    def whole(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor of which this rank may hold a part; all ranks call together."""
        return tensor

    def part(self, tensor: Tensor, _like: Tensor) -> Tensor:
        """This rank's part of a whole tensor, divided as `like` is."""
        return tensor

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> float:
        """The squared length of all tensors as one vector, in float64."""
        return sum(tensor.double().square().sum().item() for tensor in tensors)


SINGLE = Ranks()


@contextmanager
def joined(rank: int, size: int, meeting_file: Path) -> Iterator[Ranks]:
    """Join the other ranks through a file that all can see and none has used before; leave at the end."""
    with _process_group(rank, size, meeting_file.absolute().as_uri()) as ranks:
        yield ranks


@contextmanager
def joined_by_torchrun(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the ranks that `torchrun` started, or be the only one where none of its variables is set.

    It sets RANK and WORLD_SIZE, and torch reads MASTER_ADDR and MASTER_PORT; on a machine with GPUs the
    process takes the one of its LOCAL_RANK. Raises SpecError for variables that make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in environment]
    if len(missing) == len(names):
        yield SINGLE
        return
    if missing:
        raise SpecError(f"the environment lacks {', '.join(missing)}: start the ranks with torchrun")
    if not (environment["RANK"].isdecimal() and environment["WORLD_SIZE"].isdecimal()):
        raise SpecError(
            f"RANK is {environment['RANK']!r}, WORLD_SIZE {environment['WORLD_SIZE']!r}: not counts"
        )
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", "0")))
    with _process_group(rank, size, "env://") as ranks:
        yield ranks


@contextmanager
def _process_group(rank: int, size: int, meeting: str) -> Iterator[Ranks]:
    if not 0 <= rank < size:
        raise SpecError(f"rank {rank} is not one of {size}: ranks count from 0")
    if size == 1:
        yield SINGLE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, meeting, PATIENCE, size, rank)
    try:
        yield Ranks(rank, size)
    finally:
        distributed.destroy_process_group()
