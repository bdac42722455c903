"""The gate behind quantization with data: an artifact is kept only if the engine computes what was meant.

Every matrix is compared bit for bit with the codes that the walk saved, as the serving kernels dequantize a
tile of it, and every vector. Then the engine runs some calibration text, and its logits must be those of the
quantizer's own model: dequantized weights, with activations rounded as the engine rounds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from penjing.artifact import Artifact, ModelConfig, block_tensors
from penjing.engine.pages import pages_for
from penjing.engine.runner import CpuRunner
from penjing.engine.step import StepSequence
from penjing.errors import ArtifactError
from penjing.formats import Encoded, decode, encode
from penjing.formats.codes import TABLE_BITS, UNIFORM_BITS, dequantize
from penjing.formats.encoding import rows_of
from penjing.formats.packing import pack
from penjing.measure.machine import usable_cores
from penjing.models import Checkpoint
from penjing.models.axes import divided_norm
from penjing.models.block import Weights, linear
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.optimize.roundtrip import kernel_rows, rows_equal
from penjing.quantize.assignment import assign_formats
from penjing.quantize.state import BlockResult
from penjing.spec import QuantizeStep, Tier, WeightFormat

SEQUENCES, LENGTH = 2, 64
HEAD_ROWS = 4096  # decoded at a time
# Median over tokens of |engine - torch| / |torch|, logits centred. Correct artifacts stay below 0.01: float32
# sums in another order, and the rounding of activations that they tip over. A wrong tensor is above 0.1.
MOST_RELATIVE_ERROR = 0.03
ROUNDED = (*UNIFORM_BITS, *TABLE_BITS)  # whose inputs become int8


def check_calibrated(
    artifact: Artifact,
    results: Iterator[BlockResult],
    *,
    checkpoint: Checkpoint,
    step: QuantizeStep,
    tokens: NDArray[np.int64],
) -> None:
    """Raises ArtifactError, naming the tensor, unless the engine has what the walk meant."""
    formats = assign_formats(checkpoint.config, step)
    sample = torch.from_numpy(tokens[:SEQUENCES, :LENGTH])
    hidden: dict[Tier, Tensor] = {}
    model = TorchModel(checkpoint.config, lambda name: tensor_of(checkpoint.read(name)).float(), LENGTH)
    check_unquantized(artifact, checkpoint, formats)
    for tier in artifact.tiers:
        hidden[tier] = embedded(artifact, sample, tier) * checkpoint.config.embedding_scale
    with torch.no_grad():
        for index, result in enumerate(results):
            check_block(artifact, index, result, model)
            for tier in artifact.tiers:
                weights = meant_weights(artifact, model, index, result, tier)
                rounding = partial(rounding_linear, formats, f"blocks.{index}.")
                hidden[tier] = replace(model.block(index), linear=rounding)(weights, hidden[tier])
        for tier, states in hidden.items():
            check_logits(artifact, tier, sample, meant_logits(artifact, model, formats, states, tier))


def check_unquantized(
    artifact: Artifact, checkpoint: Checkpoint, formats: Mapping[str, WeightFormat]
) -> None:
    """Embedding, head and what keeps its dtype, one tile each; and the final norm."""
    for name, format in formats.items():
        if name in ("embedding", "head") or format.name == "keep":
            rows = range(min(16, artifact.matrix(name).rows))
            part, table = checkpoint.read(name)[: len(rows)], artifact.matrix(name).table
            meant = encode(part, format, "search", name, table)
            if not all(
                rows_equal(artifact.matrix(name), decode(meant, tier), rows, tier) for tier in artifact.tiers
            ):
                raise refusal(artifact, name)
    if not np.array_equal(artifact.vector("final_norm"), checkpoint.read("final_norm").astype(np.float32)):
        raise refusal(artifact, "final_norm")


def check_block(artifact: Artifact, index: int, result: BlockResult, model: TorchModel) -> None:
    """All stored bytes of a block's codes, one tile of each through the kernels, and its vectors."""
    for number, (inner, codes) in enumerate(result.codes.items()):
        name = f"blocks.{index}.{inner}"
        stored, meant = artifact.matrix(name), pack(codes)
        if not same_parts(stored, meant):
            raise refusal(artifact, name)
        tile = (index + number) % -(-stored.rows // 16)  # another one of each matrix
        rows = range(16 * tile, min(16 * tile + 16, stored.rows))
        for tier in artifact.tiers:
            if not rows_equal(stored, dequantize(codes, tier)[rows.start : rows.stop], rows, tier):
                raise refusal(artifact, name)
    for inner, role in block_tensors(model.config, model.config.blocks[index]).items():
        for tier in artifact.tiers:
            if not role.is_matrix:
                first = tier == artifact.tiers[0]
                vector = meant_vector(model, index, inner, result, first_tier=first).numpy()
                if not np.array_equal(artifact.vector(f"blocks.{index}.{inner}", tier), vector):
                    raise refusal(artifact, f"blocks.{index}.{inner}")


def same_parts(stored: Encoded, meant: Encoded) -> bool:
    """Whether two matrices are the same bytes."""
    parts = ("codes", "high", "scales", "zeros", "table", "residual")
    pairs = [(getattr(stored, part, None), getattr(meant, part, None)) for part in parts]
    return all(
        (one is None and other is None)
        or (one is not None and other is not None and one.tobytes() == other.tobytes())
        for one, other in pairs
    )


def meant_vector(
    model: TorchModel, index: int, name: str, result: BlockResult, *, first_tier: bool
) -> Tensor:
    """A block's vector as the walk left it: tuned for the first tier, else divided by channel scales."""
    if name in result.vectors and first_tier:
        return torch.from_numpy(result.vectors[name])
    vector = model.read(f"blocks.{index}.{name}")
    if name not in result.channel_scales:
        return vector
    return divided_norm(vector, model.config.norm_offset, torch.from_numpy(result.channel_scales[name]))


def meant_weights(
    artifact: Artifact, model: TorchModel, index: int, result: BlockResult, tier: Tier
) -> dict[str, Tensor]:
    """A block's tensors as the walk left them, float32."""
    names = block_tensors(model.config, model.config.blocks[index])
    return {
        name: torch.from_numpy(dequantize(result.codes[name], tier))
        if name in result.codes
        else meant_vector(model, index, name, result, first_tier=tier == artifact.tiers[0])
        for name in names
    }


def rounding_linear(
    formats: Mapping[str, WeightFormat], prefix: str, weights: Weights, name: str, inputs: Tensor
) -> Tensor:
    """A matrix as the engine applies it (docs/artifact.md, "Activations"), but for the order of sums."""
    format = formats[prefix + name]
    return linear(weights, name, rounded(inputs, format.group_size) if format.name in ROUNDED else inputs)


def rounded(inputs: Tensor, group_size: int) -> Tensor:
    """Inputs [..., K] rounded to int8 per token and group, float32."""
    columns = inputs.shape[-1]
    groups = functional.pad(inputs, (0, -columns % group_size))
    groups = groups.view(*inputs.shape[:-1], -1, group_size)
    largest = groups.abs().amax(-1, keepdim=True)
    codes = torch.round(groups * (127 / largest.clamp(min=1e-30))).clamp(-127, 127)
    result: Tensor = (codes * (largest / 127)).flatten(-2)[..., :columns]
    return result


def meant_logits(
    artifact: Artifact, model: TorchModel, formats: Mapping[str, WeightFormat], hidden: Tensor, tier: Tier
) -> Tensor:
    """Logits of the quantizer's model from its last hidden states; the head is decoded in parts."""
    name = "embedding" if model.config.tied_head else "head"
    head, parts = artifact.matrix(name), []
    last = replace(model, linear=partial(rounding_linear, formats, ""))
    normed = last.block(0).norm(model.read("final_norm"), hidden)
    for first in range(0, head.rows, HEAD_ROWS):
        rows = rows_of(head, first, HEAD_ROWS)
        parts.append(last.linear({name: torch.from_numpy(decode(rows, tier))}, name, normed))
    return last.capped(torch.cat(parts, -1))


def embedded(artifact: Artifact, tokens: Tensor, tier: Tier) -> Tensor:
    """Rows of the embedding, float32 [..., hidden]."""
    used, places = torch.unique(tokens, return_inverse=True)
    return torch.from_numpy(kernel_rows(artifact.matrix("embedding"), used.tolist(), tier))[places]


class WithExactCache:
    """An artifact whose keys and values are cached in fp32: the gate is about tensors."""

    def __init__(self, artifact: Artifact) -> None:
        update = {"key_format": "fp32", "value_format": "fp32"}
        blocks = tuple(block.model_copy(update=update) for block in artifact.config.blocks)
        self.config: ModelConfig = artifact.config.model_copy(update={"blocks": blocks})
        self.matrix = artifact.matrix
        self.vector = artifact.vector


def check_logits(artifact: Artifact, tier: Tier, tokens: Tensor, meant: Tensor) -> None:
    """Raise ArtifactError unless the engine's logits are those of the quantizer's model."""
    count, length = tokens.shape
    runner = CpuRunner(WithExactCache(artifact), threads=usable_cores(), isa=None)
    pages = pages_for(length)
    runner.allocate(count * pages)
    sequences = [
        StepSequence(
            tokens=row.numpy().astype(np.int32),
            first_position=0,
            pages=np.arange(number * pages, (number + 1) * pages, dtype=np.int32),
            wanted=np.arange(length, dtype=np.int32),
            tier=tier,
        )
        for number, row in enumerate(tokens)
    ]
    error = relative_error(torch.from_numpy(runner.step(sequences)), meant.flatten(0, 1))
    if not error <= MOST_RELATIVE_ERROR:
        raise ArtifactError(
            f"{artifact.path}: logits at tier {tier} differ from the quantizer's own by {error:.3f} of their "
            f"size, where {MOST_RELATIVE_ERROR} is allowed; report this with the model's name"
        )


def relative_error(found: Tensor, meant: Tensor) -> float:
    """Median over rows of |found - meant| / |meant|, each row centred; NaN where one is."""
    found, meant = (rows - rows.mean(-1, keepdim=True) for rows in (found, meant))
    return float(((found - meant).norm(dim=-1) / meant.norm(dim=-1)).median())


def refusal(artifact: Artifact, name: str) -> ArtifactError:
    """A tensor that is not what was meant."""
    return ArtifactError(
        f"{artifact.path}: {name} does not read back as it was quantized; "
        "report this with the model's name, and do not use the artifact"
    )
