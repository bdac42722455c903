"""What a walk will take, said before it begins: memory, disk and time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from penjing.artifact import ModelConfig, block_tensors
from penjing.quantize.methods import Method
from penjing.quantize.tracks import CHUNK_TOKENS, compute_dtype

PROBE_SIZE = 1024  # rows and columns of the product that is timed
# Of rounding 10^9 weights with feedback, and by stages that are judged, on two cores; measured.
SECONDS_PER_GIGAWEIGHT = 400.0
JUDGED_SECONDS_PER_GIGAWEIGHT = 1500.0


@dataclass(frozen=True)
class Preflight:
    """memory_bytes: the peak beside what the program itself takes. spill: whether activations go to a file,
    which then takes part of disk_bytes. seconds: of all blocks.
    """

    memory_bytes: int
    disk_bytes: int
    seconds: float
    spill: bool

    def __str__(self) -> str:
        where = "in a file" if self.spill else "in memory"
        return (
            f"about {self.memory_bytes / 1e9:.2f} GB of memory, {self.disk_bytes / 1e9:.2f} GB of disk, "
            f"{self.seconds / 60:.1f} minutes; activations {where}"
        )


def preflight(
    config: ModelConfig, method: Method, num_tokens: int, max_ram_bytes: int, *, passes: int
) -> Preflight:
    """Predict a walk over `num_tokens` calibration tokens; passes: 2 if matrices are layered, else 1."""
    tracks = 2 if method.cross else 1
    inner = max(block.intermediate_size for block in config.blocks)
    streams = num_tokens * (
        4 * config.hidden_size * tracks + compute_dtype(config.hidden_size).itemsize * inner
    )
    working = working_bytes(config, method, tracks)
    spill = working + streams > max_ram_bytes
    weights = sum(block_weights(config, index) for index in range(len(config.blocks)))
    rounding = JUDGED_SECONDS_PER_GIGAWEIGHT if method.held else SECONDS_PER_GIGAWEIGHT
    return Preflight(
        memory_bytes=working + (0 if spill else streams),
        disk_bytes=(streams if spill else 0) + passes * weights,
        seconds=passes * (work(config, method, num_tokens) + rounding * weights / 1e9),
        spill=spill,
    )


def working_bytes(config: ModelConfig, method: Method, tracks: int) -> int:
    """The largest block's weights on each track and statistics of its widest input; beside these a chunk of
    activations or, later, the double precision that inverting a Gram takes and a matrix being rounded."""
    itemsize = compute_dtype(config.hidden_size).itemsize
    weights = max(block_weights(config, index) for index in range(len(config.blocks)))
    roles = [role for block in config.blocks for role in block_tensors(config, block).values()]
    widest = max(role.shape[1] for role in roles if role.is_matrix)
    largest = max(role.shape[0] * role.shape[1] for role in roles if role.is_matrix)
    grams = (1 + method.cross) * (1 + method.held)
    inverting, chunk = 20 * widest * widest + 6 * 4 * largest, 6 * 4 * CHUNK_TOKENS * widest
    return tracks * itemsize * weights + 4 * grams * widest * widest + max(inverting, chunk)


def block_weights(config: ModelConfig, index: int) -> int:
    """Weights in the matrices of a block."""
    roles = block_tensors(config, config.blocks[index]).values()
    return sum(role.shape[0] * role.shape[1] for role in roles if role.is_matrix)


def work(config: ModelConfig, method: Method, num_tokens: int) -> float:
    """Seconds of matrix products, at rates measured now: each track once, and Gram matrices."""
    fast = 1 / product_rate(compute_dtype(config.hidden_size))
    exact = 1 / product_rate(torch.float32)
    seconds = 0.0
    for index, block in enumerate(config.blocks):
        active = block.experts_per_token / block.num_experts if block.num_experts else 1.0
        forward = 2.0 * num_tokens * block_weights(config, index) * active
        seconds += forward * fast * (1 + method.cross)
        query = block.num_heads * config.head_dim
        squares = 2 * config.hidden_size**2 + query**2 + block.intermediate_size**2
        seconds += 2.0 * num_tokens * squares * (0.6 * exact + method.cross * fast)
    return seconds


def product_rate(dtype: torch.dtype) -> float:
    """Operations a second of a product of matrices, the best of three."""
    matrix = torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * PROBE_SIZE**3 / min(seconds)
