"""What config.json says of each layer: how far it sees, and whether its feed-forward is dense or experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penjing.models.settings import Settings

MAX_POSITIONS = 2**24  # far beyond any model published: more is a mistake, or an attempt to use up the memory
MAX_EXPERTS = 2**17  # of all layers together
LAYER_TYPES = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class FeedForward:
    """A layer's feed-forward; see BlockConfig."""

    kind: Literal["dense", "experts"]
    intermediate_size: int
    num_experts: int = 0
    experts_per_token: int = 0
    normalize_experts: bool = False


def no_windows(_: Settings, num_layers: int) -> list[int | None]:
    """Llama: every layer sees everything."""
    return [None] * num_layers


def uniform_windows(settings: Settings, num_layers: int) -> list[int | None]:
    """Mistral, Phi-3: one window for all layers; null is none."""
    settings.require("layer_types", default=None, supported=(None,))
    if settings.data.get("sliding_window") is None:
        return [None] * num_layers
    return [settings.integer("sliding_window", most=MAX_POSITIONS)] * num_layers


def switched_windows(settings: Settings, num_layers: int) -> list[int | None]:
    """Qwen2, Qwen3: `layer_types`, or else the layers from `max_window_layers` on; only if switched on."""
    used = settings.flag("use_sliding_window")
    window = settings.integer("sliding_window", 4096, most=MAX_POSITIONS) if used else None
    types = layer_types(settings, num_layers)
    if types is None:
        first = settings.count("max_window_layers", 28)
        types = ["sliding_attention" if index >= first else "full_attention" for index in range(num_layers)]
    return [window if kind == "sliding_attention" else None for kind in types]


def uniform_switched_windows(settings: Settings, num_layers: int) -> list[int | None]:
    """Qwen3-MoE: one window for all layers, only if switched on."""
    settings.require("layer_types", default=None, supported=(None, ["full_attention"] * num_layers))
    used = settings.flag("use_sliding_window")
    return uniform_windows(settings, num_layers) if used else [None] * num_layers


def alternating_windows(settings: Settings, num_layers: int) -> list[int | None]:
    """Gemma 3: `layer_types`, or else every `sliding_window_pattern`-th layer sees everything."""
    window = settings.integer("sliding_window", most=MAX_POSITIONS)
    types = layer_types(settings, num_layers)
    if types is None:
        pattern = settings.integer("sliding_window_pattern", 6)
        types = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(num_layers)]
    return [window if kind == "sliding_attention" else None for kind in types]


def layer_types(settings: Settings, num_layers: int) -> list[str] | None:
    """The kind of each layer, where config.json lists them. Raises UnsupportedConfigError."""
    types = settings.data.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != num_layers or not LAYER_TYPES.issuperset(types):
        raise settings.unsupported(
            "layer_types", types, f"{num_layers} of full_attention or sliding_attention"
        )
    return types


def dense_layers(settings: Settings, num_layers: int) -> list[FeedForward]:
    """The same feed-forward in all layers."""
    return [FeedForward("dense", settings.integer("intermediate_size"))] * num_layers


def sparse_layers(settings: Settings, num_layers: int) -> list[FeedForward]:
    """Qwen3-MoE: experts in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name."""
    dense = settings.data.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(index, int) for index in dense):
        raise settings.unsupported("mlp_only_layers", dense, "a list of layer numbers")
    step = settings.integer("decoder_sparse_step")
    sparse = [(index + 1) % step == 0 and index not in dense for index in range(num_layers)]
    number = settings.integer(
        "num_experts", settings.data.get("num_local_experts"), most=MAX_EXPERTS // num_layers
    )
    experts = FeedForward(
        "experts",
        settings.integer("moe_intermediate_size"),
        number,
        settings.integer("num_experts_per_tok", most=number),
        settings.flag("norm_topk_prob"),
    )
    if all(sparse):
        return [experts] * num_layers
    plain = FeedForward("dense", settings.integer("intermediate_size"))
    return [experts if chosen else plain for chosen in sparse]
