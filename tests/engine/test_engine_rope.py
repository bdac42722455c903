"""Rotary frequencies against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from penjing.artifact.config import RopeConfig
from penjing.engine.rope import inverse_frequencies
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


@pytest.mark.parametrize(
    "rope",
    [
        RopeConfig(type="linear"),
        RopeConfig(type="linear", factor=-1.0),
        RopeConfig(type="yarn", factor=4.0),
        RopeConfig(type="llama3", factor=8.0, low_freq_factor=1.0, original_max_positions=64),
        RopeConfig(type="llama3", **LLAMA3 | {"low_freq_factor": 4.0}),
    ],
)
def test_refuses_what_it_cannot_compute(rope: RopeConfig) -> None:
    with pytest.raises(UnsupportedConfigError):
        inverse_frequencies(rope, 64)


def test_refuses_odd_head_dim() -> None:
    with pytest.raises(UnsupportedConfigError, match="even"):
        inverse_frequencies(RopeConfig(), 7)
