"""The families that can be imported. A new one is an entry in FAMILIES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from penjing.artifact.config import RopeConfig
from penjing.errors import UnsupportedFamilyError
from penjing.models.layers import (
    FeedForward,
    alternating_windows,
    dense_layers,
    no_windows,
    sparse_layers,
    switched_windows,
    uniform_switched_windows,
    uniform_windows,
)
from penjing.models.rotary import gemma3_ropes, one_rope, phi3_rope
from penjing.models.settings import Settings

GEMMA_NORMS = {
    "post_attention_norm": "post_attention_layernorm.weight",
    "feed_forward_norm": "pre_feedforward_layernorm.weight",
    "post_feed_forward_norm": "post_feedforward_layernorm.weight",
}
PHI3_FUSED = {
    "self_attn.qkv_proj.weight": ("query", "key", "value"),
    "mlp.gate_up_proj.weight": ("gate", "up"),
}


@dataclass(frozen=True)
class Family:
    """How one architecture is published, and what its configuration leaves unsaid.

    sliding_windows: the window of every layer, or None for those that see everything. ropes: of all layers,
    or of those without and those with a window. feed_forwards: of every layer.
    qkv_bias, output_bias, feed_forward_bias: true, false, or the key of config.json that decides.
    defaults: keys that config.json may leave out. norm_names: published names that are not those of
    BLOCK_TENSORS (layout.py).
    fused: published tensors of a block that hold several of ours, one below the other.
    activation_key, scalar_key: how config.json calls the activation, and the attention scalar if it has one.
    """

    name: str
    model_types: tuple[str, ...]
    sliding_windows: Callable[[Settings, int], list[int | None]]
    qkv_bias: bool | str
    output_bias: bool | str
    feed_forward_bias: bool | str = False
    qk_norm: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ropes: Callable[[Settings], tuple[RopeConfig, ...]] = one_rope
    feed_forwards: Callable[[Settings, int], list[FeedForward]] = dense_layers
    norm_names: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norm_offset: float = 0.0
    post_norms: bool = False
    scales_embedding: bool = False
    softcaps: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    activation_key: str = "hidden_act"
    scalar_key: str | None = None


FAMILIES = (
    Family(
        name="llama",
        model_types=("llama",),
        sliding_windows=no_windows,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        feed_forward_bias="mlp_bias",
        defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    ),
    Family(
        name="mistral",
        model_types=("mistral",),
        sliding_windows=uniform_windows,
        qkv_bias=False,
        output_bias=False,
        defaults={
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family(
        name="qwen2",
        model_types=("qwen2",),
        sliding_windows=switched_windows,
        qkv_bias=True,
        output_bias=False,
        defaults={"max_position_embeddings": 32768},
    ),
    Family(
        name="qwen3",
        model_types=("qwen3",),
        sliding_windows=switched_windows,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        defaults={"max_position_embeddings": 32768, "head_dim": 128},
    ),
    Family(
        name="qwen3_moe",
        model_types=("qwen3_moe",),
        sliding_windows=uniform_switched_windows,
        feed_forwards=sparse_layers,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        defaults={
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "num_key_value_heads": 4,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
        },
    ),
    Family(
        name="phi3",
        model_types=("phi3",),
        sliding_windows=uniform_windows,
        ropes=phi3_rope,
        qkv_bias=False,
        output_bias=False,
        fused=PHI3_FUSED,
        defaults={
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 32000,
        },
    ),
    Family(
        name="gemma3",
        model_types=("gemma3_text", "gemma3"),
        sliding_windows=alternating_windows,
        ropes=gemma3_ropes,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        norm_names=GEMMA_NORMS,
        norm_offset=1.0,
        post_norms=True,
        scales_embedding=True,
        softcaps=True,
        activation="gelu_tanh",
        activation_key="hidden_activation",
        scalar_key="query_pre_attn_scalar",
        defaults={
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
    ),
)


def find_family(settings: Settings) -> Family:
    """The family of a `model_type`. Raises UnsupportedFamilyError, naming what is supported."""
    model_type = settings.data.get("model_type")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise UnsupportedFamilyError(
        f"{settings.path}: model_type {model_type!r} is not supported; use {supported}"
    )


def family_named(name: str) -> Family:
    """The family that a configuration names."""
    return next(family for family in FAMILIES if family.name == name)
