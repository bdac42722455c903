"""Shapes against the parameter counts that their publishers state."""

from __future__ import annotations

import math

import pytest

from penjing.artifact import expected_tensors
from penjing.errors import SpecError
from penjing.models.shapes import SHAPES, find_shape

PUBLISHED_PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_248_023_552,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-8b": 8_190_735_360,
}


def test_every_shape_has_the_published_number_of_parameters() -> None:
    counted = {
        name: sum(math.prod(role.shape) for role in expected_tensors(config).values())
        for name, config in SHAPES.items()
        if name != "tiny"
    }
    assert counted == PUBLISHED_PARAMETERS


def test_the_cache_format_is_the_caller_s() -> None:
    block = find_shape("tiny", "bf16").blocks[1]
    assert (block.key_format, block.value_format) == ("bf16", "bf16")
    assert find_shape("tiny") == SHAPES["tiny"]


def test_an_unknown_shape_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'gpt-5' is unknown: use tiny, .*llama-3\.1-8b"):
        find_shape("gpt-5")
