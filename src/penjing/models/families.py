"""The families that can be imported: names of their tensors, and how to read their configuration.

A new family is one entry in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penjing.artifact.config import BlockConfig, ModelConfig, RopeConfig
from penjing.errors import UnsupportedFamilyError
from penjing.models.settings import Settings

# Far beyond any model published: a number above these is a mistake, or an attempt to use up the memory.
MAX_POSITIONS = 2**24
MAX_LAYERS = 2**12

# Canonical name -> published name. Families without a tensor (a bias, a norm) simply never ask for it.
MODEL_TENSORS = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
BLOCK_TENSORS = {
    "attention_norm": "input_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "query_bias": "self_attn.q_proj.bias",
    "key_bias": "self_attn.k_proj.bias",
    "value_bias": "self_attn.v_proj.bias",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
    "output": "self_attn.o_proj.weight",
    "output_bias": "self_attn.o_proj.bias",
    "feed_forward_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "gate_bias": "mlp.gate_proj.bias",
    "up": "mlp.up_proj.weight",
    "up_bias": "mlp.up_proj.bias",
    "down": "mlp.down_proj.weight",
    "down_bias": "mlp.down_proj.bias",
}


@dataclass(frozen=True)
class Family:
    """How one architecture is published, and what its configuration leaves unsaid.

    qkv_bias, output_bias, feed_forward_bias: true, false, or the key of config.json that decides.
    head_dim: the default where config.json has none; None is hidden_size / num_attention_heads.
    sliding_windows: the window of every layer, or None for those that see everything.
    """

    name: str
    model_types: tuple[str, ...]
    sliding_windows: Callable[[Settings, int], list[int | None]]
    qkv_bias: bool | str
    output_bias: bool | str
    feed_forward_bias: bool | str = False
    qk_norm: bool = False
    head_dim: int | None = None
    max_positions: int = 32768
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()


def no_windows(_: Settings, num_layers: int) -> list[int | None]:
    """Llama: every layer sees everything."""
    return [None] * num_layers


def uniform_windows(settings: Settings, num_layers: int) -> list[int | None]:
    """Mistral: one window for all layers; null is none, and a missing key is 4096."""
    settings.require("layer_types", default=None, supported=(None,))
    window = (
        None
        if settings.data.get("sliding_window", 4096) is None
        else settings.integer("sliding_window", 4096, most=MAX_POSITIONS)
    )
    return [window] * num_layers


def layered_windows(settings: Settings, num_layers: int) -> list[int | None]:
    """Qwen: `layer_types`, or else the layers from `max_window_layers` on; only if switched on."""
    used = settings.flag("use_sliding_window")
    window = settings.integer("sliding_window", 4096, most=MAX_POSITIONS) if used else None
    types = settings.data.get("layer_types")
    if types is None:
        first = settings.count("max_window_layers", 28)
        types = ["sliding_attention" if index >= first else "full_attention" for index in range(num_layers)]
    known = {"full_attention", "sliding_attention"}
    if not isinstance(types, list) or len(types) != num_layers or not known.issuperset(types):
        raise settings.unsupported(
            "layer_types", types, f"{num_layers} of full_attention or sliding_attention"
        )
    return [window if kind == "sliding_attention" else None for kind in types]


FAMILIES = (
    Family(
        name="llama",
        model_types=("llama",),
        sliding_windows=no_windows,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        feed_forward_bias="mlp_bias",
        max_positions=2048,
        bos_ids=(1,),
        eos_ids=(2,),
    ),
    Family(
        name="mistral",
        model_types=("mistral",),
        sliding_windows=uniform_windows,
        qkv_bias=False,
        output_bias=False,
        max_positions=131072,
        bos_ids=(1,),
        eos_ids=(2,),
    ),
    Family(
        name="qwen2",
        model_types=("qwen2",),
        sliding_windows=layered_windows,
        qkv_bias=True,
        output_bias=False,
    ),
    Family(
        name="qwen3",
        model_types=("qwen3",),
        sliding_windows=layered_windows,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        head_dim=128,
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


def published_name(canonical: str) -> str:
    """The name a tensor has in a checkpoint."""
    if not canonical.startswith("blocks."):
        return MODEL_TENSORS[canonical]
    _, index, inner = canonical.split(".")
    return f"model.layers.{index}.{BLOCK_TENSORS[inner]}"


def read_config(settings: Settings) -> ModelConfig:
    """config.json to the engine's terms.

    Raises UnsupportedFamilyError, UnsupportedConfigError or CorruptCheckpointError.
    """
    family = find_family(settings)
    settings.require("hidden_act", default="silu", supported=("silu",))
    settings.require("quantization_config", default=None, supported=(None,))
    heads, hidden = settings.integer("num_attention_heads"), settings.integer("hidden_size")
    layers = settings.integer("num_hidden_layers", most=MAX_LAYERS)
    vocab_size = settings.integer("vocab_size")
    rope = settings.rope()
    return ModelConfig(
        family=family.name,
        vocab_size=vocab_size,
        hidden_size=hidden,
        head_dim=head_dim(settings, family, hidden, heads),
        max_positions=max_positions(settings, family, rope),
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        rope=rope,
        tied_head=settings.flag("tie_word_embeddings"),
        qkv_bias=decide(settings, family.qkv_bias),
        output_bias=decide(settings, family.output_bias),
        feed_forward_bias=decide(settings, family.feed_forward_bias),
        qk_norm=family.qk_norm,
        bos_ids=settings.token_ids("bos_token_id", family.bos_ids, vocab_size),
        eos_ids=settings.token_ids("eos_token_id", family.eos_ids, vocab_size),
        blocks=tuple(
            BlockConfig(
                num_heads=heads,
                num_kv_heads=kv_heads(settings, heads),
                intermediate_size=settings.integer("intermediate_size"),
                sliding_window=window,
            )
            for window in family.sliding_windows(settings, layers)
        ),
    )


def max_positions(settings: Settings, family: Family, rope: RopeConfig) -> int:
    """The context length; YaRN stretches the original one, whatever max_position_embeddings says."""
    published = settings.integer("max_position_embeddings", family.max_positions, most=MAX_POSITIONS)
    if rope.type != "yarn" or rope.factor is None or rope.original_max_positions is None:
        return published
    stretched = rope.original_max_positions * rope.factor
    if stretched > MAX_POSITIONS:
        raise settings.unsupported("rope_parameters.factor", rope.factor, f"up to {MAX_POSITIONS} positions")
    return max(published, int(stretched))


def decide(settings: Settings, rule: bool | str) -> bool:
    """A fixed truth, or a flag of config.json."""
    return settings.flag(rule) if isinstance(rule, str) else rule


def head_dim(settings: Settings, family: Family, hidden: int, heads: int) -> int:
    """The width of a head; it must be even, for rotary embedding."""
    if family.head_dim is None and hidden % heads and settings.data.get("head_dim") is None:
        raise settings.unsupported("num_attention_heads", heads, f"divisors of hidden_size {hidden}")
    width = settings.integer("head_dim", family.head_dim or hidden // heads)
    if width % 2:
        raise settings.unsupported("head_dim", width, "even widths")
    return width


def kv_heads(settings: Settings, heads: int) -> int:
    """Key and value heads; as many as query heads where config.json says nothing."""
    count = settings.integer("num_key_value_heads", heads)
    if heads % count:
        raise settings.unsupported("num_key_value_heads", count, f"divisors of num_attention_heads {heads}")
    return count
