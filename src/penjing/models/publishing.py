"""config.json of a Hugging Face checkpoint, rebuilt from a model's shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from penjing.artifact import ModelConfig, RopeConfig
from penjing.artifact.config import BlockConfig
from penjing.errors import UnsupportedConfigError
from penjing.models.configuration import PUBLISHED_ACTIVATIONS, WIDTHS, WIDTHS_KEY
from penjing.models.families import family_named

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
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


def rebuild_config(
    config: ModelConfig, dtype: str, where: Path, *, own_widths: bool = False
) -> dict[str, Any]:
    """The keys of config.json; `dtype` as torch names it.

    own_widths: whether dense blocks may differ in width, which a key of Penjing's own then says, and no
    architecture is named: nobody else can read it. Raises UnsupportedConfigError for blocks that differ
    otherwise.
    """
    first = config.blocks[0]
    unequal = len({shape_but_window(block) for block in config.blocks}) > len(
        {block.feed_forward for block in config.blocks}
    )
    if unequal and own_widths and all(block.feed_forward == "dense" for block in config.blocks):
        equal = tuple(
            block.model_copy(update=dict(zip(WIDTHS, widths_of(config.blocks[0]), strict=True)))
            for block in config.blocks
        )
        keys = rebuild_config(config.model_copy(update={"blocks": equal}), dtype, where)
        return keys | {"architectures": [], WIDTHS_KEY: [list(widths_of(block)) for block in config.blocks]}
    if unequal or config.family not in ARCHITECTURES:
        what = "its blocks differ in width" if unequal else f"no family {config.family!r}"
        raise UnsupportedConfigError(f"{where}: a Hugging Face config.json cannot describe it ({what})")
    family = family_named(config.family)
    return {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": family.model_types[0],
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.blocks),
        "num_attention_heads": first.num_heads,
        "num_key_value_heads": first.num_kv_heads,
        "head_dim": config.head_dim,
        family.activation_key: PUBLISHED_ACTIVATIONS[config.activation],
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.feed_forward_bias,
        "bos_token_id": one_or_many(config.bos_ids),
        "eos_token_id": one_or_many(config.eos_ids),
        **feed_forward_keys(config),
        **FAMILY_KEYS.get(config.family, rope_keys)(config),
        **window_keys(config),
    }


def widths_of(block: BlockConfig) -> tuple[int, ...]:
    """What WIDTHS names."""
    return tuple(getattr(block, name) for name in WIDTHS)


def shape_but_window(block: BlockConfig) -> tuple[object, ...]:
    """What config.json says once for all blocks with the same kind of feed-forward."""
    heads = (block.num_heads, block.num_kv_heads)
    experts = (block.num_experts, block.experts_per_token, block.normalize_experts)
    return (*heads, block.feed_forward, block.intermediate_size, *experts)


def feed_forward_keys(config: ModelConfig) -> dict[str, Any]:
    """Widths, and what the experts are like if there are any."""
    dense = [index for index, block in enumerate(config.blocks) if block.feed_forward == "dense"]
    keys: dict[str, Any] = {}
    if dense:
        keys["intermediate_size"] = config.blocks[dense[0]].intermediate_size
    if len(dense) == len(config.blocks):
        return keys
    experts = next(block for block in config.blocks if block.feed_forward == "experts")
    return keys | {
        "mlp_only_layers": dense,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": experts.intermediate_size,
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.experts_per_token,
        "norm_topk_prob": experts.normalize_experts,
    }


def rope_keys(config: ModelConfig) -> dict[str, Any]:
    """Rotary embedding, in the spelling of transformers 5 and, beside it, that of older readers."""
    rope, table = config.rope, rope_table(config.rope)
    keys: dict[str, Any] = {"rope_parameters": table, "rope_theta": rope.theta}
    return keys if rope.type == "default" else {**keys, "rope_scaling": table}


def rope_table(rope: RopeConfig) -> dict[str, Any]:
    """One rotary embedding."""
    scaled = {
        published: getattr(rope, own)
        for own, published in ROPE_KEYS.items()
        if getattr(rope, own) is not None
    }
    return {"rope_type": rope.type, "rope_theta": rope.theta, **scaled}


def phi3_keys(config: ModelConfig) -> dict[str, Any]:
    """Phi-3: part of a head is rotated; LongRoPE ends with its short factors, which are all there is."""
    rope, table = config.rope, rope_table(config.rope)
    table["partial_rotary_factor"] = rope.partial_rotary_factor
    keys: dict[str, Any] = {
        "rope_parameters": table,
        "rope_theta": rope.theta,
        "partial_rotary_factor": rope.partial_rotary_factor,
        "pad_token_id": None,  # or transformers takes 32000, whatever the vocabulary
    }
    if rope.short_factors is None:
        return keys
    table["short_factor"] = table["long_factor"] = list(rope.short_factors)
    return keys | {"original_max_position_embeddings": rope.original_max_positions, "rope_scaling": table}


def gemma3_keys(config: ModelConfig) -> dict[str, Any]:
    """Gemma 3: a rotary embedding for each kind of layer, the scale of attention, and soft caps."""
    local = config.local_rope or config.rope
    full, sliding = rope_table(config.rope), rope_table(local)
    keys: dict[str, Any] = {
        "rope_parameters": {"full_attention": full, "sliding_attention": sliding},
        "rope_theta": config.rope.theta,
        "rope_local_base_freq": local.theta,
        "query_pre_attn_scalar": whole(config.attention_scalar),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
    }
    return keys if config.rope.type == "default" else {**keys, "rope_scaling": full}


FAMILY_KEYS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {"phi3": phi3_keys, "gemma3": gemma3_keys}


def window_keys(config: ModelConfig) -> dict[str, Any]:
    """Sliding windows, as the families that have them say it."""
    windows = [block.sliding_window for block in config.blocks]
    widest = max((window for window in windows if window is not None), default=None)
    types = ["full_attention" if window is None else "sliding_attention" for window in windows]
    switch = {"use_sliding_window": widest is not None}
    match config.family:
        case "mistral" | "phi3":
            return {"sliding_window": widest}
        case "qwen3_moe":
            return {**switch, "sliding_window": widest}
        case "qwen2" | "qwen3":
            return {**switch, "sliding_window": widest, "layer_types": types}
        case "gemma3":
            return {"sliding_window": widest or config.max_positions, "layer_types": types}
    return {}


def whole(number: float | None) -> float | int | None:
    """A number as it was published: transformers takes no 256.0 for 256."""
    return int(number) if number is not None and number.is_integer() else number


def one_or_many(ids: tuple[int, ...]) -> int | list[int] | None:
    """Token ids as config.json has them."""
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)
