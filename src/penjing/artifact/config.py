"""A model's shape as the engine sees it: what differs between families is data here, not code there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from penjing.spec import KvFormat, Spec


class RopeConfig(Spec):
    """Rotary position embedding. Fields beyond `theta` belong to the scaled types and are None otherwise."""

    type: Literal["default", "linear", "llama3", "yarn"] = "default"
    theta: float = Field(default=10000.0, gt=0)
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_positions: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None


class BlockConfig(Spec):
    """One decoder layer. Widths are per block, because pruning makes them differ."""

    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    sliding_window: int | None = Field(default=None, gt=0)
    feed_forward: Literal["dense"] = "dense"
    key_format: KvFormat = "int8"
    value_format: KvFormat = "int8"


class ModelConfig(Spec):
    """Everything but the weights. Sizes count elements; `max_positions` counts tokens."""

    family: str
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    norm_eps: float = Field(gt=0)
    rope: RopeConfig = RopeConfig()
    activation: Literal["silu"] = "silu"
    tied_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    qk_norm: bool = False
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    blocks: tuple[BlockConfig, ...] = Field(min_length=1)


@dataclass(frozen=True)
class TensorRole:
    """What one named tensor must be: a matrix [rows, columns] (quantizable) or a vector (stored as fp32)."""

    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """Matrices carry nearly all the bytes, and are what formats apply to."""
        return len(self.shape) == 2


def expected_tensors(config: ModelConfig) -> dict[str, TensorRole]:
    """Every tensor that an artifact of this shape holds, by canonical name, in the order of execution."""
    hidden = config.hidden_size
    roles = {"embedding": TensorRole((config.vocab_size, hidden))}
    for index, block in enumerate(config.blocks):
        roles |= {f"blocks.{index}.{name}": role for name, role in block_tensors(config, block).items()}
    roles["final_norm"] = TensorRole((hidden,))
    if not config.tied_head:
        roles["head"] = TensorRole((config.vocab_size, hidden))
    return roles


def block_tensors(config: ModelConfig, block: BlockConfig) -> dict[str, TensorRole]:
    """The tensors of one block, by their names inside it. Matrices are [outputs, inputs]."""
    hidden, head_dim, inner = config.hidden_size, config.head_dim, block.intermediate_size
    query, key = block.num_heads * head_dim, block.num_kv_heads * head_dim
    shapes: dict[str, tuple[int, ...]] = {"attention_norm": (hidden,)}
    shapes |= {"query": (query, hidden), "key": (key, hidden), "value": (key, hidden)}
    if config.qkv_bias:
        shapes |= {"query_bias": (query,), "key_bias": (key,), "value_bias": (key,)}
    if config.qk_norm:
        shapes |= {"query_norm": (head_dim,), "key_norm": (head_dim,)}
    shapes["output"] = (hidden, query)
    if config.output_bias:
        shapes["output_bias"] = (hidden,)
    shapes |= {"feed_forward_norm": (hidden,), "gate": (inner, hidden), "up": (inner, hidden)}
    if config.feed_forward_bias:
        shapes |= {"gate_bias": (inner,), "up_bias": (inner,)}
    shapes["down"] = (hidden, inner)
    if config.feed_forward_bias:
        shapes["down_bias"] = (hidden,)
    return {name: TensorRole(shape) for name, shape in shapes.items()}
