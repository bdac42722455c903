from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, MISTRAL, QWEN2, QWEN3, published_shapes, write_checkpoint

from penjing.artifact import ModelConfig, RopeConfig, expected_tensors
from penjing.errors import CorruptCheckpointError, UnsupportedConfigError, UnsupportedFamilyError
from penjing.models import Checkpoint
from penjing.models.families import FAMILIES, published_name, read_config
from penjing.models.settings import Settings

EXAMPLES = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}
VARIANTS = [
    LLAMA,
    LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    MISTRAL,
    QWEN2,
    QWEN3,
    QWEN3 | {"attention_bias": True},
]


def read(config: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    return read_config(Settings(Path("config.json"), config, generation or {}))


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_every_family_has_an_example() -> None:
    assert {family.name for family in FAMILIES} == set(EXAMPLES)


@pytest.mark.parametrize("config", VARIANTS)
def test_names_and_shapes(config: dict[str, Any]) -> None:
    roles = expected_tensors(read(config))
    assert {published_name(name): role.shape for name, role in roles.items()} == published_shapes(config)


@pytest.mark.parametrize("config", VARIANTS)
def test_names_and_shapes_are_those_of_transformers(config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        own = transformers.AutoConfig.for_model(**config)
        model = transformers.AutoModelForCausalLM.from_config(own)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        state.pop("lm_head.weight")
    roles = expected_tensors(read(config))
    assert {published_name(name): role.shape for name, role in roles.items()} == state


@pytest.mark.parametrize("config", VARIANTS)
def test_a_model_saved_by_transformers_reads_back(tmp_path: Path, config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.config == read(config)
    state = model.state_dict()
    for name in checkpoint.tensors:
        expected = state[published_name(name)].view(torch.uint16).numpy()
        assert np.array_equal(checkpoint.read(name).view(np.uint16), expected)


def test_unknown_family_names_the_known_ones() -> None:
    with pytest.raises(
        UnsupportedFamilyError, match="'gpt2' is not supported; use llama, mistral, qwen2, qwen3"
    ):
        read(LLAMA | {"model_type": "gpt2"})
    with pytest.raises(UnsupportedFamilyError):
        read(without(LLAMA, "model_type"))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 0.7}},
        {"partial_rotary_factor": 0.5},
        {"quantization_config": {"quant_method": "gptq"}},
        {"num_key_value_heads": 3},
        {"head_dim": 9},
        {"max_position_embeddings": 10**15},
        {"num_hidden_layers": 10**9},
        {"eos_token_id": -5},
        {"eos_token_id": [2, 50]},
        {"bos_token_id": 10**30},
    ],
)
def test_unsupported_settings(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedConfigError, match=r"config\.json: \w+ is .* not supported; only"):
        read(LLAMA | change)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": None},
        {"hidden_size": "48"},
        {"hidden_size": -1},
        {"num_hidden_layers": True},
        {"rms_norm_eps": 0},
        {"tie_word_embeddings": "yes"},
        {"eos_token_id": "</s>"},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": float("nan")}},
        {"rms_norm_eps": float("inf")},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"type": "linear", "factor": 10**400}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": "many"}},
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        read(LLAMA | change)


def test_contexts_that_no_memory_holds() -> None:
    yarn = {"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 10**300}
    with pytest.raises(UnsupportedConfigError, match="up to 16777216 positions"):
        read(LLAMA | {"rope_scaling": yarn})
    with pytest.raises(UnsupportedConfigError, match="sliding_window"):
        read(MISTRAL | {"sliding_window": 2**70})
    assert read(LLAMA | {"max_position_embeddings": 2**24}).max_positions == 2**24


def test_absent_keys_take_the_family_s_defaults() -> None:
    bare = without(
        LLAMA, "head_dim", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "rope_theta"
    )
    config = read(without(bare, "tie_word_embeddings", "bos_token_id", "eos_token_id"))
    assert (config.head_dim, config.blocks[0].num_kv_heads) == (12, 4)
    assert (config.norm_eps, config.max_positions, config.rope.theta) == (1e-6, 2048, 10000.0)
    assert (config.tied_head, config.bos_ids, config.eos_ids) == (False, (1,), (2,))
    assert read(without(QWEN3, "head_dim")).head_dim == 128
    assert read(without(QWEN3, "bos_token_id")).bos_ids == ()


def test_end_of_text_comes_from_the_generation_settings_first() -> None:
    assert read(LLAMA, {"eos_token_id": [7, 8]}).eos_ids == (7, 8)
    assert read(LLAMA | {"eos_token_id": [3, 4]}).eos_ids == (3, 4)
    assert read(LLAMA | {"eos_token_id": None}).eos_ids == ()


OLD_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rope_theta": 5e5}, RopeConfig(theta=5e5)),
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeConfig(theta=5e5)),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, RopeConfig(theta=5e5)),
        (
            {"rope_scaling": {"type": "linear", "factor": 4}},
            RopeConfig(type="linear", theta=1e4, factor=4.0),
        ),
        (
            {"rope_scaling": OLD_LLAMA3 | {"rope_type": "llama3"}},
            RopeConfig(
                type="llama3",
                theta=1e4,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_positions=64,
            ),
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}},
            RopeConfig(type="yarn", theta=1e6, factor=4.0, original_max_positions=128),
        ),
    ],
)
def test_rope_in_old_and_new_spelling(change: dict[str, Any], expected: RopeConfig) -> None:
    assert read(LLAMA | change).rope == expected


def test_yarn_stretches_the_context() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert read(LLAMA | {"rope_scaling": yarn}).max_positions == 256
    assert read(LLAMA | {"rope_scaling": yarn, "max_position_embeddings": 1024}).max_positions == 1024
    assert read(LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}}).max_positions == 128


def windows(config: dict[str, Any]) -> list[int | None]:
    return [block.sliding_window for block in read(config).blocks]


def test_sliding_windows() -> None:
    assert windows(LLAMA | {"sliding_window": 16}) == [None, None]
    assert windows(MISTRAL) == [64, 64]
    assert windows(MISTRAL | {"sliding_window": None}) == [None, None]
    assert windows(without(MISTRAL, "sliding_window")) == [4096, 4096]
    window = {"sliding_window": 16, "max_window_layers": 1}
    assert windows(QWEN2 | window) == [None, None]
    assert windows(QWEN2 | window | {"use_sliding_window": True}) == [None, 16]
    assert windows(QWEN2 | window | {"use_sliding_window": True, "max_window_layers": 0}) == [16, 16]
    assert windows(QWEN2 | window | {"use_sliding_window": True, "max_window_layers": 28}) == [None, None]
    types = {"layer_types": ["sliding_attention", "full_attention"]}
    assert windows(QWEN3 | window | types | {"use_sliding_window": True}) == [16, None]
    assert windows(QWEN3 | window | types) == [None, None]
    with pytest.raises(UnsupportedConfigError, match="layer_types"):
        windows(QWEN3 | {"layer_types": ["full_attention"]})
    with pytest.raises(UnsupportedConfigError, match="layer_types"):
        windows(QWEN3 | {"layer_types": ["full_attention", "linear_attention"]})
    with pytest.raises(UnsupportedConfigError, match="layer_types"):
        windows(MISTRAL | types)


def test_windows_and_rope_agree_with_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = QWEN2 | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    path = write_checkpoint(tmp_path / "m", config)
    theirs = transformers.AutoConfig.from_pretrained(path)
    expected = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert windows(config) == expected
    theirs.save_pretrained(tmp_path / "saved")
    assert read(json.loads((tmp_path / "saved" / "config.json").read_text())) == read(config)
