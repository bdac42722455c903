"""config.json of a Hugging Face checkpoint, rebuilt from a model's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penjing.artifact import ModelConfig, RopeConfig
from penjing.errors import UnsupportedConfigError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ROPE_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_positions": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}


def rebuild_config(config: ModelConfig, dtype: str, where: Path) -> dict[str, Any]:
    """The keys of config.json; `dtype` as torch names it.

    Raises UnsupportedConfigError if blocks differ in width, which config.json cannot say.
    """
    first = config.blocks[0]
    widths = {(block.num_heads, block.num_kv_heads, block.intermediate_size) for block in config.blocks}
    if len(widths) > 1 or config.family not in ARCHITECTURES:
        what = "its blocks differ in width" if len(widths) > 1 else f"no family {config.family!r}"
        raise UnsupportedConfigError(f"{where}: a Hugging Face config.json cannot describe it ({what})")
    return {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": first.intermediate_size,
        "num_hidden_layers": len(config.blocks),
        "num_attention_heads": first.num_heads,
        "num_key_value_heads": first.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.feed_forward_bias,
        "bos_token_id": one_or_many(config.bos_ids),
        "eos_token_id": one_or_many(config.eos_ids),
        **rope_keys(config.rope),
        **window_keys(config),
    }


def rope_keys(rope: RopeConfig) -> dict[str, Any]:
    """Rotary embedding, in the spelling of transformers 5 and, beside it, that of older readers."""
    scaled = {
        published: getattr(rope, own)
        for own, published in ROPE_KEYS.items()
        if getattr(rope, own) is not None
    }
    table = {"rope_type": rope.type, "rope_theta": rope.theta, **scaled}
    keys: dict[str, Any] = {"rope_parameters": table, "rope_theta": rope.theta}
    return keys if rope.type == "default" else {**keys, "rope_scaling": table}


def window_keys(config: ModelConfig) -> dict[str, Any]:
    """Sliding windows, as the families that have them say it."""
    windows = [block.sliding_window for block in config.blocks]
    widest = max((window for window in windows if window is not None), default=None)
    if config.family == "mistral":
        return {"sliding_window": widest}
    if config.family not in ("qwen2", "qwen3"):
        return {}
    types = ["full_attention" if window is None else "sliding_attention" for window in windows]
    used = widest is not None
    return {"use_sliding_window": used, "sliding_window": widest, "layer_types": types}


def one_or_many(ids: tuple[int, ...]) -> int | list[int] | None:
    """Token ids as config.json has them."""
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)
