"""Rotary frequencies against transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from penjing.artifact.config import RopeConfig
from penjing.artifact.rope import inverse_frequencies
from penjing.errors import UnsupportedConfigError

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_positions": 8192}
YARN = {"factor": 4.0, "original_max_positions": 32768}


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1000000.0])
@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("default", {}),
        ("linear", {"factor": 4.0}),
        ("llama3", LLAMA3),
        ("llama3", LLAMA3 | {"factor": 32.0, "original_max_positions": 64}),
        ("yarn", YARN),
        ("yarn", YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 0.7}),
    ],
)
def test_agrees_with_transformers(type: Any, options: dict[str, Any], theta: float, head_dim: int) -> None:
    rope = RopeConfig(type=type, theta=theta, **options)
    names = {"original_max_positions": "original_max_position_embeddings"}
    parameters = {names.get(name, name): value for name, value in options.items()}
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=int(options.get("original_max_positions", 8192) * options.get("factor", 1)),
        rope_parameters={"rope_type": type, "rope_theta": theta, **parameters},
    )
    expected = LlamaRotaryEmbedding(config)
    frequencies, factor = inverse_frequencies(rope, head_dim)
    assert frequencies.dtype == np.float32
    assert factor == expected.attention_scaling
    np.testing.assert_allclose(frequencies, expected.inv_freq.numpy(), rtol=1.5e-7, atol=0)


@pytest.mark.parametrize("part", [1.0, 0.75, 0.3])
def test_longrope_and_parts_of_a_head(part: float) -> None:
    head_dim = 96
    size = int(head_dim * part)
    factors = [1 + index / 7 for index in range(size // 2)]
    long = {"rope_type": "longrope", "short_factor": factors, "long_factor": [9.0] * (size // 2)}
    shape = {"hidden_size": 2 * head_dim, "num_attention_heads": 2, "max_position_embeddings": 16384}
    common = {"rope_theta": 10000.0, "partial_rotary_factor": part}
    for parameters, rope in (
        (common | {"rope_type": "default"}, RopeConfig(partial_rotary_factor=part)),
        (
            common | long,
            RopeConfig(
                type="longrope",
                partial_rotary_factor=part,
                attention_factor=math.sqrt(1 + math.log(4) / math.log(4096)),
                short_factors=tuple(factors),
            ),
        ),
    ):
        expected = Phi3RotaryEmbedding(Phi3Config(**shape, rope_parameters=parameters))
        frequencies, factor = inverse_frequencies(rope, head_dim)
        assert factor == expected.attention_scaling
        np.testing.assert_allclose(frequencies, expected.inv_freq.numpy(), rtol=1.5e-7, atol=0)


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(type="linear"),
        RopeConfig(type="linear", factor=-1.0),
        RopeConfig(type="yarn", factor=4.0),
        RopeConfig(type="llama3", factor=8.0, low_freq_factor=1.0, original_max_positions=64),
        RopeConfig(type="llama3", **LLAMA3 | {"low_freq_factor": 4.0}),
        RopeConfig(type="longrope", attention_factor=1.0, short_factors=(1.0,) * 31),
        RopeConfig(type="longrope", short_factors=(1.0,) * 32),
    ],
)
def test_refuses_what_it_cannot_compute(rope: RopeConfig) -> None:
    with pytest.raises(UnsupportedConfigError):
        inverse_frequencies(rope, 64)


def test_refuses_odd_head_dim() -> None:
    with pytest.raises(UnsupportedConfigError, match="turns pairs, and cannot turn 7 of 7"):
        inverse_frequencies(RopeConfig(), 7)
    with pytest.raises(UnsupportedConfigError, match="cannot turn 0 of 8"):
        inverse_frequencies(RopeConfig(partial_rotary_factor=0.1), 8)
