"""Rotations that merge into weights (QuaRot, Ashkboos et al. 2024): outliers spread over all channels.

With R orthogonal, W x = (W R)(R^T x), and R^T merges into whatever makes x. For the residual stream every
matrix that reads it takes W R and every one that writes it (the embedding's rows too) R^T W, once the norms'
weights are merged into the readers, for then a norm does not see rotations. A tied head is no longer tied
where its norm's weight is not constant. Grids with few scales gain most; groups of 64 need it little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from penjing.errors import SpecError


def hadamard_rotation(size: int, seed: int) -> Tensor:
    """A random Hadamard rotation R, float32 [size, size], orthogonal: Sylvester's matrix times signs.

    Blocks are as large as the largest power of two that divides `size`. Raises SpecError for an odd size.
    """
    block = size & -size
    if block < 2:
        raise SpecError(f"a width of {size} is odd: there is no Hadamard rotation of it")
    matrix = torch.ones(1, 1, dtype=torch.double)
    while matrix.shape[0] < block:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    rotation = torch.kron(torch.eye(size // block, dtype=torch.double), matrix / block**0.5)
    return (signs[:, None] * rotation).float()


def merge_norm(weight: Tensor, norm: Tensor) -> Tensor:
    """A reader [N, K] of a normalized input with the norm's weight [K] merged; the norm becomes ones."""
    return weight * norm


def rotate_reader(weight: Tensor, rotation: Tensor) -> Tensor:
    """W R: a matrix [N, K] that will read R^T x."""
    return (weight.double() @ rotation.double()).float()


def rotate_writer(weight: Tensor, rotation: Tensor) -> Tensor:
    """R^T W: a matrix [K, M] (or bias [K]) that will write R^T y. An embedding [V, K] is a reader: E R."""
    return (rotation.double().t() @ weight.double()).float()


def rotate_heads(value: Tensor, output: Tensor, num_kv_heads: int, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Value rows and output columns rotated head by head, which attention commutes with.

    value: [kv heads x width, K]; output: [N, heads x width], heads of one group side by side; rotation:
    [width, width].
    """
    width = rotation.shape[0]
    turned = torch.einsum("vw,hvk->hwk", rotation, value.reshape(num_kv_heads, width, -1))
    columns = output.reshape(output.shape[0], -1, width) @ rotation
    return turned.reshape(value.shape), columns.reshape(output.shape)
