"""A model's shape as keys of a GGUF file, and what llama.cpp cannot compute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from penjing.artifact import ModelConfig
from penjing.errors import UnsupportedConfigError
from penjing.export.gguf.file import Value
from penjing.export.gguf.rope import rope_keys
from penjing.models.publishing import shape_but_window

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "phi3": "phi3",
    "gemma3": "gemma3",
}
ROPE_TYPES = {"llama": ("llama3",), "phi3": ("longrope",)}  # beside default, linear and yarn
GEMMA3_27B_BLOCKS = 62  # llama.cpp tells by it that scores are not scaled by the width of a head


def architecture_of(config: ModelConfig, where: Path) -> str:
    """llama.cpp's name of the architecture. Raises UnsupportedConfigError if it has none for the family."""
    if config.family not in ARCHITECTURES:
        raise UnsupportedConfigError(f"{where}: llama.cpp has no family {config.family!r}")
    return ARCHITECTURES[config.family]


def model_keys(config: ModelConfig, where: Path) -> dict[str, Value]:
    """Every key that describes the model. Raises UnsupportedConfigError for what llama.cpp cannot compute."""
    architecture = architecture_of(config, where)
    refusal = next(refusals(config, architecture), None)
    if refusal is not None:
        raise UnsupportedConfigError(
            f"{where}: llama.cpp's {architecture} cannot compute it ({refusal}); export safetensors instead"
        )
    first = config.blocks[0]
    keys: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": context_length(config),
        "embedding_length": config.hidden_size,
        "block_count": len(config.blocks),
        "feed_forward_length": first.intermediate_size,
        "attention.head_count": first.num_heads,
        "attention.head_count_kv": first.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        **{f"rope.{key}": value for key, value in rope_keys(config).items()},
    }
    if first.feed_forward == "experts":
        keys |= {"expert_count": first.num_experts, "expert_used_count": first.experts_per_token}
        keys["expert_feed_forward_length"] = first.intermediate_size
    if architecture == "gemma3":
        keys |= gemma3_keys(config)
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def gemma3_keys(config: ModelConfig) -> dict[str, Value]:
    """Which blocks see how far, and the soft cap of the logits."""
    keys: dict[str, Value] = {}
    windows = [block.sliding_window for block in config.blocks]
    if any(windows):
        keys["attention.sliding_window"] = max(window for window in windows if window is not None)
        keys["attention.sliding_window_pattern"] = [window is not None for window in windows]
    if config.logit_softcap is not None:
        keys["final_logit_softcapping"] = config.logit_softcap
    return keys


def context_length(config: ModelConfig) -> int:
    """Positions for which llama.cpp computes the same: only in Gemma 3 does it know of sliding windows."""
    windows = [block.sliding_window for block in config.blocks if block.sliding_window is not None]
    return config.max_positions if config.family == "gemma3" else min([config.max_positions, *windows])


def refusals(config: ModelConfig, architecture: str) -> Iterator[str]:
    """Each thing that llama.cpp does not compute, in words."""
    first, rope = config.blocks[0], config.rope
    if len({shape_but_window(block) for block in config.blocks}) > 1:
        yield "its blocks differ"
    if architecture in ("qwen2", "phi3") and first.num_heads * config.head_dim != config.hidden_size:
        yield "its heads together are not as wide as the model"
    if config.output_bias and architecture != "llama":
        yield "a bias on the output of attention"
    if config.feed_forward_bias and architecture != "llama":
        yield "biases in the feed-forward"
    if rope.type not in ("default", "linear", "yarn", *ROPE_TYPES.get(architecture, ())):
        yield f"rotary embedding of type {rope.type}"
    if rope.partial_rotary_factor != 1 and architecture != "phi3":
        yield "rotation of part of a head"
    if first.feed_forward == "experts" and not first.normalize_experts:
        yield "experts whose probabilities do not add up to 1"
    if architecture == "qwen3moe" and first.feed_forward == "dense":
        yield "no experts"
    if architecture == "gemma3":
        yield from gemma3_refusals(config)


def gemma3_refusals(config: ModelConfig) -> Iterator[str]:
    """What llama.cpp takes for granted in a Gemma 3."""
    widths = {block.sliding_window for block in config.blocks if block.sliding_window is not None}
    if len(widths) > 1:
        yield "sliding windows of different widths"
    if config.local_rope is not None and config.local_rope.type != "default":
        yield f"rotary embedding of type {config.local_rope.type} in blocks with a window"
    if config.attention_softcap is not None:
        yield "a soft cap on attention scores"
    usual = config.head_dim
    if len(config.blocks) == GEMMA3_27B_BLOCKS:
        usual = config.hidden_size // config.blocks[0].num_heads
    if config.attention_scalar is not None and config.attention_scalar != usual:
        yield f"attention scores over the root of {config.attention_scalar:g}, where it takes {usual}"


def notes(config: ModelConfig) -> list[str]:
    """What llama.cpp computes otherwise, a line each."""
    said = []
    if context_length(config) < config.max_positions:
        said.append(
            f"context of {context_length(config)} positions, not {config.max_positions}: "
            "llama.cpp has no sliding window here, and would compute otherwise beyond"
        )
    root = math.sqrt(config.hidden_size)
    if config.family == "gemma3" and not math.isclose(config.embedding_scale, root, rel_tol=1e-6):
        said.append(f"its embedding is scaled by {config.embedding_scale:.6g}, in llama.cpp by {root:.6g}")
    return said
