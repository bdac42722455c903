"""Rotary embedding in llama.cpp's terms: keys of the file, and factors that are tensors there."""

from __future__ import annotations

import math

from penjing.artifact import ModelConfig, RopeConfig
from penjing.export.gguf.file import Value


def rope_keys(config: ModelConfig) -> dict[str, Value]:
    """The keys behind `ARCHITECTURE.rope.`; llama.cpp computes the scaled frequencies of these itself."""
    rope = config.rope
    keys: dict[str, Value] = {
        "dimension_count": int(config.head_dim * rope.partial_rotary_factor),
        "freq_base": rope.theta,
    }
    if config.local_rope is not None:
        keys["freq_base_swa"] = config.local_rope.theta
    if rope.type in ("linear", "yarn"):
        assert rope.factor is not None
        keys |= {"scaling.type": rope.type, "scaling.factor": rope.factor}
    if rope.original_max_positions is not None:
        keys["scaling.original_context_length"] = rope.original_max_positions
    if rope.type == "yarn":
        keys["scaling.yarn_beta_fast"] = 32.0 if rope.beta_fast is None else rope.beta_fast
        keys["scaling.yarn_beta_slow"] = 1.0 if rope.beta_slow is None else rope.beta_slow
    if rope.attention_factor is not None:
        keys["scaling.attn_factor"] = rope.attention_factor / (own_sharpening(rope))
    return keys


def own_sharpening(rope: RopeConfig) -> float:
    """What llama.cpp multiplies cosine and sine by itself: 0.1 ln(factor) + 1 for YaRN."""
    if rope.type != "yarn" or rope.factor is None or rope.factor <= 1:
        return 1.0
    return 0.1 * math.log(rope.factor) + 1.0


def rope_factors(config: ModelConfig) -> dict[str, tuple[float, ...]]:
    """Tensors of what each pair's frequency is divided by: Llama 3's, or LongRoPE's, short in both places.

    An artifact ends with the original context, where long factors would begin.
    """
    rope = config.rope
    if rope.type == "longrope":
        assert rope.short_factors is not None
        return dict.fromkeys(("rope_factors_long.weight", "rope_factors_short.weight"), rope.short_factors)
    return {"rope_freqs.weight": llama3_factors(rope, config.head_dim)} if rope.type == "llama3" else {}


def llama3_factors(rope: RopeConfig, head_dim: int) -> tuple[float, ...]:
    """Long wavelengths are stretched by the factor, short ones kept, and those between interpolated."""
    assert rope.factor is not None
    assert rope.low_freq_factor is not None
    assert rope.high_freq_factor is not None
    assert rope.original_max_positions is not None
    factors = []
    for index in range(head_dim // 2):
        wavelength = 2 * math.pi * rope.theta ** (2 * index / head_dim)
        turns = rope.original_max_positions / wavelength
        share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        share = min(1.0, max(0.0, share))
        factors.append(1 / ((1 - share) / rope.factor + share))
    return tuple(factors)
