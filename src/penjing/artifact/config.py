"""A model's shape as the engine sees it: what differs between families is data here, not code there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from penjing.spec import KvFormat, Spec


class RopeConfig(Spec):
    """Rotary position embedding of the first `partial_rotary_factor` of a head.

    The fields behind it belong to the scaled types and are None otherwise.
    """

    type: Literal["default", "linear", "llama3", "yarn", "longrope"] = "default"
    theta: float = Field(default=10000.0, gt=0)
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_positions: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    short_factors: tuple[float, ...] | None = None


class BlockConfig(Spec):
    """One decoder layer. Widths are per block, because pruning makes them differ.

    Where the feed-forward is `experts`, each of `num_experts` has the width `intermediate_size`, and a router
    sends every token to `experts_per_token` of them.
    """

    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    sliding_window: int | None = Field(default=None, gt=0)
    feed_forward: Literal["dense", "experts"] = "dense"
    num_experts: int = Field(default=0, ge=0)
    experts_per_token: int = Field(default=0, ge=0)
    normalize_experts: bool = False
    key_format: KvFormat = "int8"
    value_format: KvFormat = "int8"

    @model_validator(mode="after")
    def check_experts(self) -> Self:
        """Experts are counted exactly where there are any."""
        dense = (self.num_experts, self.experts_per_token, self.normalize_experts) == (0, 0, False)
        if self.feed_forward == "experts" and not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token} experts a token, of {self.num_experts}")
        if self.feed_forward == "dense" and not dense:
            raise ValueError("a dense feed-forward has no experts")
        return self


class ModelConfig(Spec):
    """Everything but the weights. Sizes count elements; `max_positions` counts tokens.

    norm_offset: added to every norm's weight. embedding_scale: multiplies the embedding. attention_scalar:
    scores are divided by its root; None is head_dim. attention_softcap, logit_softcap: x becomes
    cap * tanh(x / cap). local_rope: of the blocks with a sliding window; None is `rope`. post_norms: whether
    the outputs of attention and feed-forward are normed before they are added.
    """

    family: str
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    norm_eps: float = Field(gt=0)
    norm_offset: float = 0.0
    post_norms: bool = False
    embedding_scale: float = Field(default=1.0, gt=0)
    rope: RopeConfig = RopeConfig()
    local_rope: RopeConfig | None = None
    attention_scalar: float | None = Field(default=None, gt=0)
    attention_softcap: float | None = Field(default=None, gt=0)
    logit_softcap: float | None = Field(default=None, gt=0)
    activation: Literal["silu", "gelu_tanh"] = "silu"
    tied_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    qk_norm: bool = False
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    blocks: tuple[BlockConfig, ...] = Field(min_length=1)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The rotary embeddings that blocks choose among."""
        return (self.rope,) if self.local_rope is None else (self.rope, self.local_rope)

    def rope_index(self, block: BlockConfig) -> int:
        """Which of `ropes` a block has."""
        return 0 if block.sliding_window is None else len(self.ropes) - 1


@dataclass(frozen=True)
class TensorRole:
    """What one named tensor must be: a matrix [rows, columns] or a vector (stored as fp32).

    keeps_dtype: a matrix that is never quantized, because little depends on its bytes and much on its values.
    """

    shape: tuple[int, ...]
    keeps_dtype: bool = False

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


def count_parameters(config: ModelConfig) -> int:
    """Elements of all tensors; a tied head counts once."""
    return sum(math.prod(role.shape) for role in expected_tensors(config).values())


def block_tensors(config: ModelConfig, block: BlockConfig) -> dict[str, TensorRole]:
    """The tensors of one block, by their names inside it. Matrices are [outputs, inputs]."""
    shapes = attention_shapes(config, block)
    if block.feed_forward == "dense":
        shapes |= feed_forward_shapes(config.hidden_size, block.intermediate_size, config.feed_forward_bias)
    else:
        shapes["router"] = (block.num_experts, config.hidden_size)
        expert = feed_forward_shapes(config.hidden_size, block.intermediate_size, bias=False)
        for index in range(block.num_experts):
            shapes |= {f"experts.{index}.{name}": shape for name, shape in expert.items()}
    if config.post_norms:
        shapes["post_feed_forward_norm"] = (config.hidden_size,)
    return {name: TensorRole(shape, keeps_dtype=name == "router") for name, shape in shapes.items()}


def attention_shapes(config: ModelConfig, block: BlockConfig) -> dict[str, tuple[int, ...]]:
    """A block's tensors up to the norm before its feed-forward."""
    hidden, head_dim = config.hidden_size, config.head_dim
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
    if config.post_norms:
        shapes["post_attention_norm"] = (hidden,)
    return shapes | {"feed_forward_norm": (hidden,)}


def feed_forward_shapes(hidden: int, inner: int, bias: bool) -> dict[str, tuple[int, ...]]:
    """One gated feed-forward."""
    shapes: dict[str, tuple[int, ...]] = {"gate": (inner, hidden), "up": (inner, hidden)}
    if bias:
        shapes |= {"gate_bias": (inner,), "up_bias": (inner,)}
    shapes["down"] = (hidden, inner)
    return shapes | ({"down_bias": (hidden,)} if bias else {})
