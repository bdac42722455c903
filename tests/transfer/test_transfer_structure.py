"""Smaller configurations keep the source's proportions and the limit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.artifact import BlockConfig, ModelConfig
from penjing.artifact.config import count_parameters
from penjing.errors import SpecError
from penjing.transfer import transfer_structure

SOURCE = ModelConfig(
    family="llama",
    vocab_size=1000,
    hidden_size=512,
    head_dim=64,
    max_positions=128,
    norm_eps=1e-5,
    blocks=(BlockConfig(num_heads=8, num_kv_heads=4, intermediate_size=1376),) * 12,
)


@settings(deadline=None)
@given(st.integers(440_000, 60_000_000))
def test_limit_and_ratios_are_kept(limit: int) -> None:
    target = transfer_structure(SOURCE, limit)
    assert count_parameters(target) <= limit
    assert target.head_dim == SOURCE.head_dim
    for block in target.blocks:
        assert block.num_heads == 2 * block.num_kv_heads
        assert target.hidden_size == block.num_heads * 64
        assert block.intermediate_size == 172 * block.num_heads


def test_depth_shrinks_as_width_does() -> None:
    half = transfer_structure(SOURCE, count_parameters(SOURCE) // 7)
    assert (half.hidden_size, len(half.blocks)) == (256, 6)
    assert transfer_structure(SOURCE, count_parameters(SOURCE)) == SOURCE
    assert transfer_structure(SOURCE, 10**12) == SOURCE
    one_less = transfer_structure(SOURCE, count_parameters(SOURCE) - 1)
    assert (one_less.hidden_size, len(one_less.blocks)) == (512, 11)


def test_blocks_come_evenly_from_first_to_last() -> None:
    marked = tuple(
        block.model_copy(update={"sliding_window": 10 + index}) for index, block in enumerate(SOURCE.blocks)
    )
    target = transfer_structure(SOURCE.model_copy(update={"blocks": marked}), count_parameters(SOURCE) // 7)
    assert [block.sliding_window for block in target.blocks] == [10, 12, 14, 17, 19, 21]


def test_one_key_value_head_stays_one() -> None:
    block = SOURCE.blocks[0].model_copy(update={"num_kv_heads": 1})
    target = transfer_structure(SOURCE.model_copy(update={"blocks": (block,) * 12}), 3_000_000)
    assert {(64 * block.num_heads, block.num_kv_heads) for block in target.blocks} == {
        (target.hidden_size, 1)
    }
    assert target.hidden_size < SOURCE.hidden_size


def test_too_little_is_said_with_what_it_takes() -> None:
    with pytest.raises(SpecError, match="at least") as refused:
        transfer_structure(SOURCE, 1000)
    needed = int(str(refused.value).split("at least ")[1].split(";")[0].replace(",", ""))
    assert count_parameters(transfer_structure(SOURCE, needed)) == needed


def test_experts_stay_as_many() -> None:
    numbers = {"feed_forward": "experts", "num_experts": 8, "experts_per_token": 2, "intermediate_size": 176}
    source = SOURCE.model_copy(update={"blocks": (SOURCE.blocks[0].model_copy(update=numbers),) * 12})
    target = transfer_structure(source, count_parameters(source) // 4)
    assert {(block.num_experts, block.experts_per_token) for block in target.blocks} == {(8, 2)}
    assert target.blocks[0].intermediate_size < 176
