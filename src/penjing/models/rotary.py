"""Rotary embedding as config.json describes it, in old and new spelling.

New: `rope_parameters`, one table, or one for each kind of layer. Old: `rope_scaling` and `rope_theta`.
"""

from __future__ import annotations

import math
from typing import Any

from penjing.artifact.config import RopeConfig
from penjing.errors import CorruptCheckpointError
from penjing.models.settings import Settings

SCALED_KEYS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}
ORIGINAL = "original_max_position_embeddings"
NEUTRAL = {"partial_rotary_factor": 1.0, "mscale": None, "mscale_all_dim": None, "truncate": True}


def one_rope(settings: Settings) -> tuple[RopeConfig, ...]:
    """One embedding for all layers: plain, linear, llama3 or yarn."""
    table = flat_table(settings)
    kind = kind_of(settings, table, ("default", *SCALED_KEYS))
    refuse_variations(settings, table)
    return (scaled_rope(settings, kind, table),)


def phi3_rope(settings: Settings) -> tuple[RopeConfig, ...]:
    """Phi-3: plain, or LongRoPE (once `su` or `yarn`) within its original context; of part of a head."""
    table = flat_table(settings)
    known = ("default", "longrope", "su", "yarn")
    kind = "default" if kind_of(settings, table, known) == "default" else "longrope"
    part = part_of_head(settings, table)
    if kind == "longrope":
        return (longrope(settings, table, part),)
    return (RopeConfig(theta=theta_of(settings, table), partial_rotary_factor=part),)


def gemma3_ropes(settings: Settings) -> tuple[RopeConfig, ...]:
    """Gemma 3: one embedding for layers that see everything, another for those with a window."""
    tables = settings.data.get("rope_parameters") or {}
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(tables, dict) or not all(
        key in kinds and isinstance(table, dict | None) for key, table in tables.items()
    ):
        raise settings.unsupported("rope_parameters", tables, f"a table for {' and '.join(kinds)} each")
    scaling = settings.data.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise settings.unsupported("rope_scaling", scaling, "a table")
    full, local = (dict(tables.get(kind) or {}) for kind in kinds)
    full |= scaling
    full.setdefault("rope_theta", settings.data.get("rope_theta", 1e6))
    local.setdefault("rope_theta", settings.data.get("rope_local_base_freq", 1e4))
    found = []
    for table in (full, local):
        refuse_variations(settings, table)
        found.append(scaled_rope(settings, kind_of(settings, table, ("default", *SCALED_KEYS)), table))
    return tuple(found)


def flat_table(settings: Settings) -> dict[str, Any]:
    """The one table of all layers. Raises UnsupportedConfigError for several."""
    table = settings.data.get("rope_parameters") or settings.data.get("rope_scaling") or {}
    if not isinstance(table, dict) or any(isinstance(value, dict) for value in table.values()):
        raise settings.unsupported("rope_parameters", table, "one table for all layers")
    return table


def kind_of(settings: Settings, table: dict[str, Any], known: tuple[str, ...]) -> str:
    """Its type. Raises UnsupportedConfigError."""
    kind = table.get("rope_type", table.get("type", "default"))
    if kind not in known:
        raise settings.unsupported("rope_type", kind, ", ".join(known))
    return str(kind)


def theta_of(settings: Settings, table: dict[str, Any]) -> float:
    """The base of the wavelengths."""
    return settings.positive("rope_theta", table.get("rope_theta", settings.data.get("rope_theta")), 10000.0)


def part_of_head(settings: Settings, table: dict[str, Any]) -> float:
    """The fraction of a head that turns, in whole pairs."""
    key = "partial_rotary_factor"
    part = settings.positive(key, table.get(key, settings.data.get(key)), 1.0)
    size = int(head_dim(settings) * part)
    if part > 1 or size == 0 or size % 2:
        raise settings.unsupported(
            key, part, f"fractions that turn pairs of the {head_dim(settings)} elements"
        )
    return part


def head_dim(settings: Settings) -> int:
    """The width of a head; it must be even, for rotary embedding."""
    heads, hidden = settings.integer("num_attention_heads"), settings.integer("hidden_size")
    if hidden % heads and settings.data.get("head_dim") is None:
        raise settings.unsupported("num_attention_heads", heads, f"divisors of hidden_size {hidden}")
    width = settings.integer("head_dim", max(1, hidden // heads))
    if width % 2:
        raise settings.unsupported("head_dim", width, "even widths")
    return width


def refuse_variations(settings: Settings, table: dict[str, Any]) -> None:
    """Refuse what the engine, or the family, does not compute."""
    for key, neutral in NEUTRAL.items():
        value = table.get(key, settings.data.get(key))
        if value is not None and value != neutral:
            raise settings.unsupported(key, value, f"{neutral!r}")


def scaled_rope(settings: Settings, kind: Any, table: dict[str, Any]) -> RopeConfig:
    """default, linear, llama3 or yarn, each with the keys it needs."""
    theta = theta_of(settings, table)
    if kind == "default":
        return RopeConfig(theta=theta)
    original = original_positions(settings, table)
    values = {**table, ORIGINAL: original}
    for key in SCALED_KEYS[kind]:
        settings.positive(f"rope_parameters.{key}", values.get(key))

    def optional(key: str) -> float | None:
        unused = kind == "linear" or values.get(key) is None
        return None if unused else settings.positive(key, values[key])

    return RopeConfig(
        type=kind,
        theta=theta,
        factor=settings.positive("factor", values["factor"]),
        original_max_positions=None if kind == "linear" else int(original),
        low_freq_factor=optional("low_freq_factor"),
        high_freq_factor=optional("high_freq_factor"),
        beta_fast=optional("beta_fast"),
        beta_slow=optional("beta_slow"),
        attention_factor=optional("attention_factor"),
    )


def original_positions(settings: Settings, table: dict[str, Any]) -> float:
    """The context before it was stretched; what stands outside the table comes first."""
    original = settings.data.get(ORIGINAL)
    original = table.get(ORIGINAL) if original is None else original
    original = settings.integer("max_position_embeddings") if original is None else original
    return settings.positive(f"rope_parameters.{ORIGINAL}", original)


def longrope(settings: Settings, table: dict[str, Any], part: float) -> RopeConfig:
    """LongRoPE with its short factors.

    Beyond the original context it turns every position, those already cached too, by other factors: logits
    would depend on more than the tokens before them. So the context ends there.
    """
    original = int(original_positions(settings, table))
    if original < 2:
        raise settings.unsupported(ORIGINAL, original, "2 or more positions")
    factors, pairs = table.get("short_factor"), int(head_dim(settings) * part) // 2
    if not isinstance(factors, list) or len(factors) != pairs:
        raise CorruptCheckpointError(
            f"{settings.path}: short_factor is not a list of {pairs} numbers; download it again"
        )
    factor = table.get("factor")
    stretch = settings.positive("factor", factor, settings.integer("max_position_embeddings") / original)
    sharpened = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))
    return RopeConfig(
        type="longrope",
        theta=theta_of(settings, table),
        partial_rotary_factor=part,
        original_max_positions=original,
        attention_factor=settings.positive("attention_factor", table.get("attention_factor"), sharpened),
        short_factors=tuple(settings.positive("short_factor", value) for value in factors),
    )
