"""Rotary position embedding (Su et al. 2021): the inverse frequencies of each way of stretching the context.

Element types follow transformers operation by operation, because an inverse frequency that is off by one bit
moves the angle at position 100,000 by a hundredth of a radian.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.config import RopeConfig
from penjing.errors import UnsupportedConfigError

Frequencies = NDArray[np.float32]


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Frequencies, float]:
    """float32 [size / 2], size being the part of a head that turns, and the factor of cosine and sine.

    The angle of pair i at position p is p * result[i], in float32. Raises UnsupportedConfigError for a scaled
    type that lacks one of its numbers, and for an odd size.
    """
    size = int(head_dim * rope.partial_rotary_factor)
    if size % 2 or size == 0:
        raise UnsupportedConfigError(f"rotary embedding turns pairs, and cannot turn {size} of {head_dim}")
    if rope.type == "yarn":
        return _yarn(rope, size)
    if rope.type == "longrope":
        return _longrope(rope, size)
    plain = np.float32(1.0) / _wavelength_bases(rope, size)
    if rope.type == "linear":
        return plain / np.float32(_need(rope, "factor")), 1.0
    if rope.type == "llama3":
        return _llama3(rope, plain), 1.0
    return plain, 1.0


def _wavelength_bases(rope: RopeConfig, head_dim: int) -> Frequencies:
    """theta^(2i / head_dim): exponents in float32, powers in double precision, rounded once.

    numpy's own float32 power differs between instruction sets; torch's agrees with this to the last bit in
    all but one in a hundred.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.power(np.float64(rope.theta), exponents.astype(np.float64)).astype(np.float32)


def _llama3(rope: RopeConfig, plain: Frequencies) -> Frequencies:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, and between them interpolated."""
    factor, low, high = (_need(rope, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = _need(rope, "original_max_positions")
    if high <= low:
        raise UnsupportedConfigError(
            f"llama3 rope: high_freq_factor {high} is not above low_freq_factor {low}"
        )
    one = np.float32(1)
    wavelengths = one / plain * np.float32(2 * math.pi)
    stretched = np.where(wavelengths > np.float32(original / low), plain / np.float32(factor), plain)
    smooth = (one / wavelengths * np.float32(original) - np.float32(low)) / np.float32(high - low)
    blended = (one - smooth) * stretched / np.float32(factor) + smooth * stretched
    between = (wavelengths >= np.float32(original / high)) & (wavelengths <= np.float32(original / low))
    return np.where(between, blended, stretched).astype(np.float32)


def _yarn(rope: RopeConfig, head_dim: int) -> tuple[Frequencies, float]:
    """YaRN (Peng et al. 2023): interpolate slow pairs, keep fast ones, ramp between; sharpen attention."""
    factor, original = _need(rope, "factor"), _need(rope, "original_max_positions")
    bases = _wavelength_bases(rope, head_dim)
    low = math.floor(_pair_of_rotations(rope.beta_fast or 32.0, rope, head_dim, original))
    high = math.ceil(_pair_of_rotations(rope.beta_slow or 1.0, rope, head_dim, original))
    first, last = max(low, 0), float(min(high, head_dim - 1))
    if first == last:
        last += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(first)) / np.float32(last - first)
    keep = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    interpolated = np.float32(1) / (np.float32(factor) * bases)
    frequencies = interpolated * (np.float32(1) - keep) + np.float32(1) / bases * keep
    attention = rope.attention_factor
    if attention is None:
        attention = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
    return frequencies.astype(np.float32), attention


def _longrope(rope: RopeConfig, head_dim: int) -> tuple[Frequencies, float]:
    """LongRoPE (Ding et al. 2024) within the original context: each wavelength has a factor of its own."""
    factors = np.array(rope.short_factors or (), np.float32)
    if len(factors) != head_dim // 2:
        raise UnsupportedConfigError(
            f"longrope rope needs {head_dim // 2} short_factors, but config has {len(factors)}"
        )
    return np.float32(1) / (factors * _wavelength_bases(rope, head_dim)), _need(rope, "attention_factor")


def _pair_of_rotations(rotations: float, rope: RopeConfig, head_dim: int, original: float) -> float:
    """Index (a fraction) of the pair that turns `rotations` times over the original context."""
    return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))


def _need(rope: RopeConfig, name: str) -> float:
    value: float | int | None = getattr(rope, name)
    if value is None or not value > 0:
        raise UnsupportedConfigError(f"{rope.type} rope needs a positive {name}, but config has {value}")
    return float(value)
