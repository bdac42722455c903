"""Counts against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest

from penjing.artifact.config import BlockConfig, ModelConfig, expected_tensors
from penjing.measure.cost import bytes_in_formats, kv_bytes_per_token, model_cost, roofline
from penjing.measure.machine import Machine
from penjing.spec import WeightFormat

BLOCK = BlockConfig(num_heads=4, num_kv_heads=2, intermediate_size=96)


def small_config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "family": "llama",
        "vocab_size": 100,
        "hidden_size": 64,
        "head_dim": 16,
        "max_positions": 512,
        "norm_eps": 1e-5,
        "blocks": (BLOCK, BLOCK),
    }
    return ModelConfig.model_validate(values | changes)


def bytes_in_dtype(config: ModelConfig, element_bytes: int) -> dict[str, int]:
    return {name: math.prod(role.shape) * element_bytes for name, role in expected_tensors(config).items()}


BLOCK_WEIGHTS = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64


def test_parameters_and_flops_by_hand() -> None:
    config = small_config()
    cost = model_cost(config, bytes_in_dtype(config, 2), context_tokens=10, prefill_tokens=3)
    assert cost.parameters == 2 * 100 * 64 + 2 * (BLOCK_WEIGHTS + 2 * 64) + 64
    attention = 4 * 4 * 16
    assert cost.blocks[0].flops_per_token == 2 * BLOCK_WEIGHTS + 10 * attention
    assert cost.decode_flops == 2 * (2 * BLOCK_WEIGHTS + 10 * attention) + 2 * 100 * 64
    assert cost.prefill_flops == 2 * (3 * 2 * BLOCK_WEIGHTS + (1 + 2 + 3) * attention) + 2 * 100 * 64
    assert cost.weight_bytes == 2 * cost.parameters
    assert cost.decode_read_bytes == cost.weight_bytes - 2 * 100 * 64 + 10 * cost.kv_bytes_per_token
    assert cost.activation_bytes_per_token == 4 * (2 * 64 + 2 * 96)


def test_a_tied_head_is_read_and_counted_once() -> None:
    tied = small_config(tied_head=True)
    cost = model_cost(tied, bytes_in_dtype(tied, 2), context_tokens=0)
    assert cost.parameters == 100 * 64 + 2 * (BLOCK_WEIGHTS + 2 * 64) + 64
    assert cost.decode_read_bytes == cost.weight_bytes


def test_experts_are_stored_all_and_used_few() -> None:
    expert, router = 3 * 24 * 64, 8 * 64
    numbers = {"feed_forward": "experts", "intermediate_size": 24, "num_experts": 8, "experts_per_token": 2}
    config = small_config(blocks=(BLOCK.model_copy(update=numbers),), tied_head=True)
    cost = model_cost(config, bytes_in_dtype(config, 2), context_tokens=0, prefill_tokens=5)
    attention = 2 * 64 * 64 + 2 * 32 * 64
    block = attention + router + 8 * expert + 2 * 64
    assert cost.parameters == 100 * 64 + block + 64
    assert cost.active_parameters == cost.parameters - 6 * expert
    assert (cost.blocks[0].parameters, cost.blocks[0].active_parameters) == (block, block - 6 * expert)
    assert cost.decode_flops == 2 * (attention + router + 2 * expert + 100 * 64)
    assert cost.weight_bytes == 2 * cost.parameters
    assert cost.decode_read_bytes == 2 * cost.active_parameters
    assert cost.activation_bytes_per_token == 4 * (2 * 64 + 8 + 2 * (2 * 24 + 2 * 64))


def test_bytes_of_a_router_follow_the_checkpoint() -> None:
    numbers = {"feed_forward": "experts", "num_experts": 8, "experts_per_token": 2}
    config = small_config(blocks=(BLOCK.model_copy(update=numbers),))
    int4, name = WeightFormat(name="int4"), "blocks.0.router"
    assert bytes_in_formats(config, int4, int4)[name] == 16 * 64 * 4
    assert bytes_in_formats(config, int4, int4, own={name: "bf16"})[name] == 16 * 64 * 2


def test_sliding_window_caps_attention() -> None:
    window = BLOCK.model_copy(update={"sliding_window": 4})
    config = small_config(blocks=(window,))
    cost = model_cost(config, bytes_in_dtype(config, 2), context_tokens=100, prefill_tokens=6)
    attention = 4 * 4 * 16
    assert cost.blocks[0].flops_per_token == 2 * BLOCK_WEIGHTS + 4 * attention
    assert cost.prefill_flops == 6 * 2 * BLOCK_WEIGHTS + (1 + 2 + 3 + 4 + 4 + 4) * attention + 2 * 100 * 64


def test_kv_bytes_per_token() -> None:
    mixed = BLOCK.model_copy(update={"value_format": "bf16"})
    config = small_config()
    assert kv_bytes_per_token(config, BLOCK) == 2 * 2 * (16 + 4)
    assert kv_bytes_per_token(config, mixed) == 2 * (16 + 4) + 2 * 16 * 2
    packed = BLOCK.model_copy(update={"key_format": "int6", "value_format": "int4"})
    assert kv_bytes_per_token(config, packed) == 2 * (12 + 2) + 2 * (8 + 2)
    padded = BLOCK.model_copy(update={"key_format": "int5", "value_format": "int5"})  # 16 dimensions as 32
    assert kv_bytes_per_token(config, padded) == 2 * 2 * (20 + 2)


def test_bytes_of_formats_count_padding() -> None:
    config = small_config()
    sizes = bytes_in_formats(config, WeightFormat(name="int4", group_size=64), WeightFormat(name="int8"))
    assert sizes["blocks.0.query"] == 64 * 64 // 2 + 64 * 2
    assert sizes["blocks.0.down"] == 64 * 128 // 2 + 64 * 2 * 2  # 96 inputs are two groups of 64
    assert sizes["head"] == 112 * 64 + 256  # 100 rows are seven tiles of 16; 224 bytes of scales end on 256
    assert sizes["final_norm"] == 64 * 4


def test_the_fast_tier_of_layered_is_int4() -> None:
    config = small_config()
    embedding = WeightFormat(name="int8")
    layered, plain = WeightFormat(name="layered"), WeightFormat(name="int4")
    fast = bytes_in_formats(config, layered, embedding, tier="fast")
    assert fast == bytes_in_formats(config, plain, embedding)
    assert sum(bytes_in_formats(config, layered, embedding).values()) > sum(fast.values())


def machine(read: float, rate: float) -> Machine:
    return Machine(
        cpu_model="test",
        cores=1,
        isa="scalar",
        memory_bytes=1,
        read_bytes_per_second=read,
        int8_operations_per_second=rate,
    )


def test_roofline_names_what_binds() -> None:
    config = small_config()
    cost = model_cost(config, bytes_in_dtype(config, 1))
    starved = roofline(cost, machine(read=1e6, rate=1e15))
    assert (starved.decode_bound, starved.prefill_bound) == ("memory", "memory")
    assert starved.decode_tokens_per_second == pytest.approx(1e6 / cost.decode_read_bytes)
    slow = roofline(cost, machine(read=1e15, rate=1e6))
    assert (slow.decode_bound, slow.prefill_bound) == ("arithmetic", "arithmetic")
    assert slow.prefill_tokens_per_second == pytest.approx(512 * 1e6 / cost.prefill_flops)


def test_streams_share_the_weights_but_not_the_cache_or_the_arithmetic() -> None:
    config = small_config()
    cost = model_cost(config, bytes_in_dtype(config, 1), context_tokens=10, prefill_tokens=3)
    assert cost.kv_read_bytes == 10 * cost.kv_bytes_per_token
    starved = roofline(cost, machine(read=1e6, rate=1e15), streams=4)
    read = cost.decode_read_bytes + 3 * cost.kv_read_bytes
    assert starved.decode_tokens_per_second == pytest.approx(4 * 1e6 / read)
    assert starved.prefill_tokens_per_second == pytest.approx(4 * 3 * 1e6 / cost.weight_bytes)
    slow = roofline(cost, machine(read=1e15, rate=1e6), streams=4)
    assert slow.decode_tokens_per_second == pytest.approx(1e6 / cost.decode_flops)
    assert slow.prefill_tokens_per_second == pytest.approx(3 * 1e6 / cost.prefill_flops)
