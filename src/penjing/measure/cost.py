"""What a model costs before it runs: parameters, operations, bytes, and what a machine could make of them.

Counting conventions: a multiply-add is two operations; norms, rotations and activations are not counted
(under 1% of any model worth serving); an embedding lookup is free; logits are computed for the last token of
a prefill only. All bytes are as stored: padding and scales included. Of experts, a token computes with its
own and reads no other; a prefill reads all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from penjing.artifact import Artifact
from penjing.artifact.config import (
    BlockConfig,
    ModelConfig,
    TensorRole,
    block_tensors,
    count_parameters,
    expected_tensors,
)
from penjing.artifact.layout import ALIGNMENT, StoredFormat, expected_parts, padding_after
from penjing.measure.machine import Machine
from penjing.spec import FloatFormat, KvFormat, Spec, Tier, WeightFormat

KV_BITS: dict[KvFormat, int] = {"int4": 4, "int5": 5, "int6": 6, "int8": 8, "bf16": 16, "fp32": 32}
KV_SCALE_BYTES: dict[KvFormat, int] = {"int4": 2, "int5": 2, "int6": 2, "int8": 4, "bf16": 0, "fp32": 0}
KV_WHOLE_DIMENSIONS: dict[KvFormat, int] = {"int4": 8, "int5": 32, "int6": 16}  # a head is padded to these


class BlockCost(Spec):
    """One decoder layer. `flops_per_token` is at the context length asked for.

    active_parameters: those that one token computes with; fewer than `parameters` where there are experts.
    """

    index: int
    parameters: int
    active_parameters: int
    flops_per_token: int
    weight_bytes: int
    kv_bytes_per_token: int


class ModelCost(Spec):
    """A whole model at one context length (tokens already cached) and one prefill length (tokens).

    active_parameters: those that one token computes with. weight_bytes: every tensor of the tier.
    decode_read_bytes: weights and cached keys and values that one decoded token reads, of which
    kv_read_bytes are cached ones. activation_bytes_per_token: float32 working memory of a step.
    """

    context_tokens: int
    prefill_tokens: int
    parameters: int
    active_parameters: int
    decode_flops: int
    prefill_flops: int
    weight_bytes: int
    decode_read_bytes: int
    kv_read_bytes: int
    activation_bytes_per_token: int
    kv_bytes_per_token: int
    blocks: tuple[BlockCost, ...]

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one sequence at the context length."""
        return self.kv_bytes_per_token * self.context_tokens


class Roofline(Spec):
    """The most a machine could give: the nearer of memory and arithmetic, and which one it is."""

    decode_tokens_per_second: float
    decode_bound: Literal["memory", "arithmetic"]
    prefill_tokens_per_second: float
    prefill_bound: Literal["memory", "arithmetic"]


def model_cost(
    config: ModelConfig,
    tensor_bytes: Mapping[str, int],
    *,
    context_tokens: int = 512,
    prefill_tokens: int = 512,
) -> ModelCost:
    """The cost table of a model whose tensors occupy `tensor_bytes` (canonical name -> bytes)."""
    roles = expected_tensors(config)
    blocks = tuple(
        block_cost(config, index, tensor_bytes, context_tokens) for index in range(len(config.blocks))
    )
    head_flops = 2 * config.vocab_size * config.hidden_size
    matrix_flops = sum(_matrix_flops(config, block) for block in config.blocks)
    prefill_attention = sum(_prefill_attention_flops(config, b, prefill_tokens) for b in config.blocks)
    kv_per_token = sum(block.kv_bytes_per_token for block in blocks)
    weight_bytes = sum(tensor_bytes[name] for name in roles)
    idle = sum(_idle_expert_bytes(block, index, tensor_bytes) for index, block in enumerate(config.blocks))
    read = weight_bytes - idle - (0 if config.tied_head else tensor_bytes["embedding"])
    kv_read = sum(_kv_read_bytes(config, block, context_tokens) for block in config.blocks)
    parameters = count_parameters(config)
    return ModelCost(
        context_tokens=context_tokens,
        prefill_tokens=prefill_tokens,
        parameters=parameters,
        active_parameters=parameters - sum(block.parameters - block.active_parameters for block in blocks),
        decode_flops=sum(block.flops_per_token for block in blocks) + head_flops,
        prefill_flops=prefill_tokens * matrix_flops + prefill_attention + head_flops,
        weight_bytes=weight_bytes,
        decode_read_bytes=read + kv_read,
        kv_read_bytes=kv_read,
        activation_bytes_per_token=max(_activation_bytes(config, block) for block in config.blocks),
        kv_bytes_per_token=kv_per_token,
        blocks=blocks,
    )


def block_cost(
    config: ModelConfig, index: int, tensor_bytes: Mapping[str, int], context_tokens: int
) -> BlockCost:
    """The cost of block `index` for a token that attends to `context_tokens` positions."""
    block = config.blocks[index]
    roles = block_tensors(config, block)
    attended = _attended(block, context_tokens)
    parameters = sum(math.prod(role.shape) for role in roles.values())
    return BlockCost(
        index=index,
        parameters=parameters,
        active_parameters=parameters - _idle_expert_parameters(config, block),
        flops_per_token=_matrix_flops(config, block) + 4 * block.num_heads * config.head_dim * attended,
        weight_bytes=sum(tensor_bytes[f"blocks.{index}.{name}"] for name in roles),
        kv_bytes_per_token=kv_bytes_per_token(config, block),
    )


def kv_bytes_per_token(config: ModelConfig, block: BlockConfig) -> int:
    """Bytes one token adds to a block's cache, the scales of its heads and their padding included."""
    total = 0
    for name in (block.key_format, block.value_format):
        whole = KV_WHOLE_DIMENSIONS.get(name, 1)
        dimensions = -(-config.head_dim // whole) * whole
        total += block.num_kv_heads * (dimensions * KV_BITS[name] // 8 + KV_SCALE_BYTES[name])
    return total


def roofline(cost: ModelCost, machine: Machine, streams: int = 1) -> Roofline:
    """Bounds for an artifact of integer matrices (float matrices compute slower than the int8 rate).

    Rates are of all `streams` together, which read the weights once between them, and each its own keys and
    values.
    """
    rate, bandwidth = machine.int8_operations_per_second, machine.read_bytes_per_second
    decode_read = cost.decode_read_bytes + (streams - 1) * cost.kv_read_bytes
    decode_memory, decode_compute = decode_read / bandwidth, streams * cost.decode_flops / rate
    prefill_memory, prefill_compute = cost.weight_bytes / bandwidth, streams * cost.prefill_flops / rate
    return Roofline(
        decode_tokens_per_second=streams / max(decode_memory, decode_compute),
        decode_bound="memory" if decode_memory >= decode_compute else "arithmetic",
        prefill_tokens_per_second=streams * cost.prefill_tokens / max(prefill_memory, prefill_compute),
        prefill_bound="memory" if prefill_memory >= prefill_compute else "arithmetic",
    )


def bytes_in_formats(
    config: ModelConfig,
    weights: WeightFormat,
    embedding: WeightFormat,
    *,
    own: Mapping[str, FloatFormat] | None = None,
    tier: Tier = "best",
) -> dict[str, int]:
    """Bytes of every tensor of an artifact with these formats, by docs/artifact.md, before it is made.

    `embedding` also governs an untied head; vectors are float32. own: the checkpoint's format of a matrix
    that keeps it (canonical name -> format); fp32 for those that are not named.
    """
    return {
        name: tensor_bytes_in(
            role, embedding if name in ("embedding", "head") else weights, (own or {}).get(name, "fp32"), tier
        )
        for name, role in expected_tensors(config).items()
    }


def tensor_bytes_in(
    role: TensorRole, format: WeightFormat, own: FloatFormat = "fp32", tier: Tier = "best"
) -> int:
    """Bytes of one tensor in a format, padding to the next tensor included; vectors are float32.

    own: the checkpoint's format, of a matrix that keeps it.
    """
    keeps = format.name == "keep" or role.keeps_dtype
    stored: StoredFormat = own if format.name == "keep" or role.keeps_dtype else format.name
    group_size = 0 if keeps else format.group_size
    parts = expected_parts(stored, group_size, role.shape, asymmetric=format.asymmetric and not keeps)
    read = [size for part, size in parts.items() if tier == "best" or part != "residual"]
    return sum(size + padding_after(size) for size in read)


def artifact_bytes(
    config: ModelConfig,
    weights: WeightFormat,
    embedding: WeightFormat,
    own: Mapping[str, FloatFormat] | None = None,
) -> int:
    """Bytes of the tensor files of an artifact with these formats, their headers included."""
    files = 2 if "layered" in (weights.name, embedding.name) else 1
    return sum(bytes_in_formats(config, weights, embedding, own=own).values()) + files * ALIGNMENT


def stored_bytes(artifact: Artifact, tier: Tier = "best") -> dict[str, int]:
    """Bytes of every tensor that a tier of an artifact reads."""
    return {
        name: sum(
            record.nbytes + padding_after(record.nbytes)
            for part, record in entry.parts.items()
            if tier == "best" or part != "residual"
        )
        for name, entry in artifact.manifest.tensors.items()
    }


def _matrix_flops(config: ModelConfig, block: BlockConfig) -> int:
    roles = block_tensors(config, block).values()
    matrices = sum(math.prod(role.shape) for role in roles if role.is_matrix)
    return 2 * (matrices - _idle_expert_parameters(config, block))


def _idle_expert_parameters(config: ModelConfig, block: BlockConfig) -> int:
    """Elements of the experts that a token is not sent to; each has three matrices."""
    idle = block.num_experts - block.experts_per_token
    return idle * 3 * block.intermediate_size * config.hidden_size


def _idle_expert_bytes(block: BlockConfig, index: int, tensor_bytes: Mapping[str, int]) -> int:
    """Their bytes, if every expert is chosen equally often."""
    prefix = f"blocks.{index}.experts."
    experts = sum(size for name, size in tensor_bytes.items() if name.startswith(prefix))
    idle = block.num_experts - block.experts_per_token
    return experts * idle // block.num_experts if idle else 0


def _attended(block: BlockConfig, context_tokens: int) -> int:
    return min(context_tokens, block.sliding_window or context_tokens)


def _kv_read_bytes(config: ModelConfig, block: BlockConfig, context_tokens: int) -> int:
    return kv_bytes_per_token(config, block) * _attended(block, context_tokens)


def _prefill_attention_flops(config: ModelConfig, block: BlockConfig, tokens: int) -> int:
    """Causal: token i attends to i positions (counted from 1), or to its window."""
    window = min(block.sliding_window or tokens, tokens)
    positions = window * (window + 1) // 2 + (tokens - window) * window
    return 4 * block.num_heads * config.head_dim * positions


def _activation_bytes(config: ModelConfig, block: BlockConfig) -> int:
    """Residual stream and its normed copy, beside the wider of attention and feed-forward; float32.

    Each expert of a token has a copy of its input and an output of its own.
    """
    attention = (2 * block.num_heads + 2 * block.num_kv_heads) * config.head_dim
    inner = 2 * block.intermediate_size
    if block.feed_forward == "experts":
        inner = block.num_experts + block.experts_per_token * (inner + 2 * config.hidden_size)
    return 4 * (2 * config.hidden_size + max(attention, inner))
