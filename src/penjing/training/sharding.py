"""Fully sharded data parallel training: each rank holds its part of every parameter, gradient and momentum.

For models larger than a device (FSDP: Zhao et al., 2023; here torch's second version). Parameters of a unit
are gathered when its forward or backward runs and dropped again. A module of its own, for it imports
torch.distributed.tensor, which takes most of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from penjing.training.ranks import Ranks


class ShardedRanks(Ranks):
    """Ranks that each hold a part of the model; states on disk hold the whole, as any other run's do."""

    def sum_gradients(self, model: nn.Module) -> None:
        """Nothing: the backward pass has summed them, and kept this rank's part."""

    def whole(self, tensor: Tensor) -> Tensor:
        """Gather a divided tensor; all ranks call together."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """This rank's part of a whole tensor, divided as `like` is. Every rank has the whole: none sends."""
        if not isinstance(like, DTensor):
            return tensor
        mesh = like.device_mesh
        return distribute_tensor(tensor.to(mesh.device_type), mesh, like.placements, src_data_rank=None)

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> float:
        """The squared length of all parts of all tensors as one vector, in float64."""
        return self.sum(super().sum_of_squares([cast(DTensor, tensor).to_local() for tensor in tensors]))


def shard(model: nn.Module, units: Sequence[nn.Module], ranks: Ranks) -> Ranks:
    """Divide the parameters of `model` in place and return the ranks to train it with.

    `units` are the modules that are gathered one at a time, usually the blocks; what they leave is the unit
    of `model` itself. Parameters must be equal on all ranks, and used by the forward of their unit only.
    A single rank keeps the whole.
    """
    if ranks.size == 1:
        return ranks
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size,))
    for module in (*units, model):
        # Also after an evaluation, which no backward pass follows, each rank has its part only.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        unit = cast(FSDPModule, module)
        unit.set_gradient_divide_factor(1.0)  # sums, since the loss is already divided by all micro-batches
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no premultiplied sum
    return ShardedRanks(ranks.rank, ranks.size)
