"""Small random models in memory, for runners that need no artifact on disk."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.config import BlockConfig, ModelConfig, RopeConfig, expected_tensors
from penjing.engine.runner import CpuRunner
from penjing.engine.step import PAGE_TOKENS, StepSequence
from penjing.formats import Encoded, encode
from penjing.spec import KvFormat, Tier, WeightFormat, WeightFormatName


@dataclass
class RandomWeights:
    """Every tensor that `config` asks for, drawn from `seed`; matrices in one format."""

    config: ModelConfig
    format: WeightFormat = field(default_factory=lambda: WeightFormat(name="keep"))
    seed: int = 0

    def __post_init__(self) -> None:
        generator = np.random.default_rng(self.seed)
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self.matrices: dict[str, Encoded] = {}
        for name, role in expected_tensors(self.config).items():
            values = generator.standard_normal(role.shape, np.float32)
            if role.is_matrix:
                scaled = values * np.float32(1.0 if name == "embedding" else 2.0 / np.sqrt(role.shape[1]))
                format = WeightFormat(name="keep") if role.keeps_dtype else self.format
                self.matrices[name] = encode(scaled, format, "range", name)
            else:
                self.vectors[name] = values * np.float32(0.1) + np.float32("norm" in name)

    def matrix(self, name: str) -> Encoded:
        return self.matrices[name]

    def vector(self, name: str, tier: Tier) -> NDArray[np.float32]:
        return self.vectors[name]


def small_config(
    kv: tuple[KvFormat, KvFormat] = ("int8", "int8"), window: int | None = None, max_positions: int = 1024
) -> ModelConfig:
    """Two blocks of unequal width; grouped queries, biases and query norms; hardly a multiple of 16."""
    key_format, value_format = kv
    shape = {"sliding_window": window, "key_format": key_format, "value_format": value_format}
    return ModelConfig(
        family="random",
        vocab_size=101,
        hidden_size=72,
        head_dim=20,
        max_positions=max_positions,
        norm_eps=1e-5,
        qkv_bias=True,
        output_bias=True,
        feed_forward_bias=True,
        qk_norm=True,
        blocks=(
            BlockConfig(num_heads=6, num_kv_heads=2, intermediate_size=100, **shape),
            BlockConfig(num_heads=5, num_kv_heads=1, intermediate_size=52, **shape),
        ),
    )


def gemma_config() -> ModelConfig:
    """All that Gemma 3 does differently, and a head of which only a part rotates; the last block sees all."""
    small = small_config()
    first, second = small.blocks
    local = {"sliding_window": 100}
    changes = {
        "norm_offset": 1.0,
        "post_norms": True,
        "embedding_scale": 8.5,
        "rope": RopeConfig(theta=1e6, partial_rotary_factor=0.8),
        "local_rope": RopeConfig(theta=1e4),
        "attention_scalar": 30.0,
        "attention_softcap": 4.0,
        "logit_softcap": 30.0,
        "activation": "gelu_tanh",
        "blocks": (first.model_copy(update=local), second.model_copy(update=local), first),
    }
    return ModelConfig.model_validate(small.model_dump() | changes)


def experts_config() -> ModelConfig:
    """A dense block between two of experts, the last of which makes a token's experts weigh 1 together."""
    small = small_config()
    first, second = small.blocks
    experts = {"feed_forward": "experts", "num_experts": 7, "experts_per_token": 3, "intermediate_size": 40}
    blocks = (
        first.model_copy(update=experts),
        second,
        first.model_copy(update=experts | {"normalize_experts": True, "experts_per_token": 2}),
    )
    return small.model_copy(update={"blocks": blocks})


def small_weights(
    format: WeightFormatName = "layered",
    kv: tuple[KvFormat, KvFormat] = ("int8", "int8"),
    window: int | None = None,
) -> RandomWeights:
    """`small_config` in one weight format, groups of 32."""
    return RandomWeights(small_config(kv, window), WeightFormat(name=format, group_size=32))


def wide_weights(format: WeightFormatName = "layered") -> RandomWeights:
    """Like `small_weights`, with matrices so wide that threads share their row tiles."""
    small = small_config()
    blocks = tuple(block.model_copy(update={"intermediate_size": 600}) for block in small.blocks)
    config = small.model_copy(update={"hidden_size": 328, "vocab_size": 700, "blocks": blocks})
    return RandomWeights(config, WeightFormat(name=format, group_size=32))


def run_whole(
    runner: CpuRunner,
    tokens: NDArray[np.int32],
    pages: NDArray[np.int32],
    chunk: int | None = None,
    tier: Tier = "best",
) -> NDArray[np.float32]:
    """All logits [n, vocab_size] of one sequence run alone, `chunk` tokens a step."""
    parts = []
    for first in range(0, len(tokens), chunk or len(tokens)):
        part = tokens[first : first + (chunk or len(tokens))]
        wanted = np.arange(len(part), dtype=np.int32)
        parts.append(runner.step([StepSequence(part, first, pages, wanted, tier)]))
    return np.concatenate(parts)


def pages_of(num_tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-num_tokens // PAGE_TOKENS)
