"""config.json to the engine's terms: what differs between families becomes data."""

from __future__ import annotations

import math
from dataclasses import replace

from penjing.artifact.config import BlockConfig, ModelConfig, RopeConfig
from penjing.errors import CorruptCheckpointError
from penjing.models.families import Family, find_family
from penjing.models.layers import MAX_POSITIONS
from penjing.models.rotary import head_dim
from penjing.models.settings import Settings

MAX_LAYERS = 2**12  # far beyond any model published
WIDTHS_KEY = "penjing_block_widths"  # of a checkpoint whose blocks differ: a list of WIDTHS for each
WIDTHS = ("num_heads", "num_kv_heads", "intermediate_size")
PUBLISHED_ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}


def read_config(settings: Settings) -> ModelConfig:
    """config.json to the engine's terms.

    Raises UnsupportedFamilyError, UnsupportedConfigError or CorruptCheckpointError.
    """
    family = find_family(settings)
    settings = with_defaults(settings, family)
    check_neutral(settings, family)
    hidden, vocab_size = settings.integer("hidden_size"), settings.integer("vocab_size")
    rope, *local_rope = family.ropes(settings)
    return ModelConfig(
        family=family.name,
        vocab_size=vocab_size,
        hidden_size=hidden,
        head_dim=head_dim(settings),
        max_positions=max_positions(settings, rope),
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        norm_offset=family.norm_offset,
        post_norms=family.post_norms,
        embedding_scale=math.sqrt(hidden) if family.scales_embedding else 1.0,
        rope=rope,
        local_rope=local_rope[0] if local_rope else None,
        attention_scalar=settings.number(family.scalar_key) if family.scalar_key else None,
        attention_softcap=softcap(settings, family, "attn_logit_softcapping"),
        logit_softcap=softcap(settings, family, "final_logit_softcapping"),
        activation=family.activation,
        tied_head=settings.flag("tie_word_embeddings"),
        qkv_bias=decide(settings, family.qkv_bias),
        output_bias=decide(settings, family.output_bias),
        feed_forward_bias=decide(settings, family.feed_forward_bias),
        qk_norm=family.qk_norm,
        bos_ids=settings.token_ids("bos_token_id", vocab_size),
        eos_ids=settings.token_ids("eos_token_id", vocab_size),
        blocks=read_blocks(settings, family),
    )


def with_defaults(settings: Settings, family: Family) -> Settings:
    """The settings of the text model, and what the family adds where config.json says nothing.

    A model of more than text has those of its text model in a table of its own.
    """
    data, text = settings.data, settings.data.get("text_config")
    if isinstance(text, dict):
        shared = ("bos_token_id", "eos_token_id", "quantization_config", "tie_word_embeddings")
        data = text | {key: data[key] for key in shared if data.get(key) is not None}
    return replace(settings, data={**family.defaults, **data})


def check_neutral(settings: Settings, family: Family) -> None:
    """Refuse what no family here is computed with."""
    activation = PUBLISHED_ACTIVATIONS[family.activation]
    settings.require(family.activation_key, default=activation, supported=(activation,))
    settings.require("quantization_config", default=None, supported=(None,))
    settings.require("use_bidirectional_attention", default=None, supported=(None, False))


def read_blocks(settings: Settings, family: Family) -> tuple[BlockConfig, ...]:
    """Every layer."""
    heads = settings.integer("num_attention_heads")
    layers = settings.integer("num_hidden_layers", most=MAX_LAYERS)
    blocks = tuple(
        BlockConfig(
            num_heads=heads,
            num_kv_heads=kv_heads(settings, heads),
            sliding_window=window,
            feed_forward=inner.kind,
            intermediate_size=inner.intermediate_size,
            num_experts=inner.num_experts,
            experts_per_token=inner.experts_per_token,
            normalize_experts=inner.normalize_experts,
        )
        for window, inner in zip(
            family.sliding_windows(settings, layers), family.feed_forwards(settings, layers), strict=True
        )
    )
    return blocks if settings.data.get(WIDTHS_KEY) is None else with_own_widths(blocks, settings)


def with_own_widths(blocks: tuple[BlockConfig, ...], settings: Settings) -> tuple[BlockConfig, ...]:
    """Blocks of the widths that a key of Penjing's own gives each. Raises CorruptCheckpointError."""
    table = settings.data[WIDTHS_KEY]
    if not isinstance(table, list) or len(table) != len(blocks):
        raise CorruptCheckpointError(f"{settings.path}: {WIDTHS_KEY} is not a list of {len(blocks)} blocks")
    found = []
    for block, row in zip(blocks, table, strict=True):
        widths = row if isinstance(row, list) else []
        positive = all(isinstance(width, int) and 0 < width < 2**31 for width in widths)
        if len(widths) != len(WIDTHS) or not positive or widths[0] % widths[1]:
            raise CorruptCheckpointError(
                f"{settings.path}: {WIDTHS_KEY} has {row!r}, not heads, key and value heads, and inner width"
            )
        found.append(block.model_copy(update=dict(zip(WIDTHS, widths, strict=True))))
    return tuple(found)


def max_positions(settings: Settings, rope: RopeConfig) -> int:
    """The context length; YaRN stretches the original one, and LongRoPE keeps it, whatever
    max_position_embeddings says."""
    published = settings.integer("max_position_embeddings", most=MAX_POSITIONS)
    if rope.original_max_positions is None or rope.type == "llama3":
        return published
    if rope.type == "longrope":
        return min(published, rope.original_max_positions)
    stretched = rope.original_max_positions * (rope.factor or 1.0)
    if stretched > MAX_POSITIONS:
        raise settings.unsupported("rope_parameters.factor", rope.factor, f"up to {MAX_POSITIONS} positions")
    return max(published, int(stretched))


def softcap(settings: Settings, family: Family, key: str) -> float | None:
    """A soft cap, in families that have them; null is none."""
    if not family.softcaps or settings.data.get(key) is None:
        return None
    return settings.number(key)


def decide(settings: Settings, rule: bool | str) -> bool:
    """A fixed truth, or a flag of config.json."""
    return settings.flag(rule) if isinstance(rule, str) else rule


def kv_heads(settings: Settings, heads: int) -> int:
    """Key and value heads; as many as query heads where config.json says nothing."""
    count = settings.integer("num_key_value_heads", heads)
    if heads % count:
        raise settings.unsupported("num_key_value_heads", count, f"divisors of num_attention_heads {heads}")
    return count
