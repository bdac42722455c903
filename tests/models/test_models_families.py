from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import (
    GEMMA3,
    LLAMA,
    MISTRAL,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    published_shapes,
    random_tensors,
    write_checkpoint,
)

from penjing.artifact import ModelConfig, RopeConfig
from penjing.errors import (
    CheckpointShapeError,
    CorruptCheckpointError,
    UnsupportedConfigError,
    UnsupportedFamilyError,
)
from penjing.models import Checkpoint
from penjing.models.configuration import read_config
from penjing.models.families import FAMILIES
from penjing.models.layout import published_tensors
from penjing.models.settings import Settings

EXAMPLES = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "phi3": PHI3,
    "gemma3": GEMMA3,
}
VARIANTS = [
    LLAMA,
    LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    MISTRAL,
    QWEN2,
    QWEN3,
    QWEN3 | {"attention_bias": True},
    QWEN3_MOE,
    QWEN3_MOE | {"mlp_only_layers": [], "decoder_sparse_step": 2, "norm_topk_prob": False},
    PHI3,
    PHI3 | {"tie_word_embeddings": True, "sliding_window": 30},
    GEMMA3,
    GEMMA3 | {"attention_bias": True, "tie_word_embeddings": False},
]


def read(config: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    return read_config(Settings(Path("config.json"), config, generation or {}))


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_every_family_has_an_example() -> None:
    assert {family.name for family in FAMILIES} == set(EXAMPLES)


@pytest.mark.parametrize("config", VARIANTS)
def test_names_and_shapes(config: dict[str, Any]) -> None:
    found = published_tensors(read(config))
    assert {tensor.name: tensor.shape for tensor in found} == published_shapes(config)


@pytest.mark.parametrize("config", [config for config in VARIANTS if config["model_type"] != "qwen3_moe"])
def test_names_and_shapes_are_those_of_transformers(config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        own = transformers.AutoConfig.for_model(**config)
        model = transformers.AutoModelForCausalLM.from_config(own)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        state.pop("lm_head.weight")
    assert {tensor.name: tensor.shape for tensor in published_tensors(read(config))} == state


@pytest.mark.parametrize("config", VARIANTS)
def test_a_model_saved_by_transformers_reads_back(tmp_path: Path, config: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    scale = float(ml_dtypes.bfloat16(read(config).embedding_scale))
    assert checkpoint.config == read(config).model_copy(update={"embedding_scale": scale})
    saved = safetensors.load_file(tmp_path / "model.safetensors")
    for tensor in published_tensors(checkpoint.config):
        parts = [checkpoint.read(name) for name in tensor.parts]
        expected = saved.pop(tensor.name).view(torch.uint16).numpy()
        assert np.array_equal(np.concatenate(parts).view(np.uint16), expected)
    assert not saved


def test_experts_fused_as_transformers_holds_them(tmp_path: Path) -> None:
    """Some save what is in memory: the experts of a layer in two tensors."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**QWEN3_MOE))
    model.save_pretrained(tmp_path / "apart")
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / "config.json").write_text((tmp_path / "apart" / "config.json").read_text())
    state = model.state_dict()
    assert state["model.layers.0.mlp.experts.gate_up_proj"].shape == (6, 80, 48)
    safetensors.save_file(state, tmp_path / "fused" / "model.safetensors")
    apart, fused = Checkpoint.open(tmp_path / "apart"), Checkpoint.open(tmp_path / "fused")
    assert fused.hash == apart.hash
    state["model.layers.0.mlp.experts.down_proj"] = torch.zeros(6, 40, 48)
    safetensors.save_file(state, tmp_path / "fused" / "model.safetensors")
    with pytest.raises(CheckpointShapeError, match=r"down_proj is \[6, 40, 48\], and .* \[6, 48, 40\]"):
        Checkpoint.open(tmp_path / "fused")


def test_a_tensor_is_stored_once(tmp_path: Path) -> None:
    """Beside a fused tensor, none of its parts."""
    tensors = random_tensors(PHI3)
    parts = np.split(tensors["model.layers.0.self_attn.qkv_proj.weight"], [48, 72])
    apart = dict(zip(("q", "k", "v"), parts, strict=True))
    named = {f"model.layers.0.self_attn.{name}_proj.weight": part.copy() for name, part in apart.items()}
    with pytest.raises(CheckpointShapeError, match=r"q_proj\.weight is stored twice"):
        Checkpoint.open(write_checkpoint(tmp_path / "both", PHI3, tensors=tensors | named))
    fused = Checkpoint.open(write_checkpoint(tmp_path / "fused", PHI3, tensors=tensors))
    del tensors["model.layers.0.self_attn.qkv_proj.weight"]
    split = Checkpoint.open(write_checkpoint(tmp_path / "split", PHI3, tensors=tensors | named))
    assert split.hash == fused.hash


@pytest.mark.parametrize("prefix", ["language_model.", "model.language_model."])
def test_the_text_part_of_a_model_of_more(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = random_tensors(GEMMA3)
    text = Checkpoint.open(write_checkpoint(tmp_path / "text", GEMMA3, tensors=tensors))
    shared = {"model_type": "gemma3", "eos_token_id": [2, 7], "tie_word_embeddings": True}
    inner = without(GEMMA3, "eos_token_id", "tie_word_embeddings", "head_dim") | {"head_dim": 12}
    whole = prefix == "language_model."
    renamed = {prefix + (name if whole else name.removeprefix("model.")): t for name, t in tensors.items()}
    renamed[f"{'' if whole else 'model.'}vision_tower.patches.weight"] = np.zeros((4, 4), np.float32)
    path = write_checkpoint(tmp_path / "m", shared | {"text_config": inner}, tensors=renamed)
    capsys.readouterr()
    opened = Checkpoint.open(path)
    assert capsys.readouterr().err == f"penjing: {path}: {opened.notes[0]}\n"
    assert opened.notes == ("text only: 1 tensors of the vision part are left out",)
    assert opened.config == text.config.model_copy(update={"eos_ids": (2, 7)})
    assert np.array_equal(opened.read("blocks.1.up"), text.read("blocks.1.up"))


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


LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.5, 2.0, 2.5, 3.0], "long_factor": [9.0] * 6}
OLD_PHI3 = PHI3 | {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32}


def test_longrope_ends_with_its_original_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read(OLD_PHI3)
    assert config.max_positions == 32
    assert config.rope == RopeConfig(
        type="longrope",
        original_max_positions=32,
        attention_factor=math.sqrt(1 + math.log(4) / math.log(32)),
        short_factors=(1.0, 1.1, 1.5, 2.0, 2.5, 3.0),
    )
    for older in ("su", "yarn"):
        assert read(OLD_PHI3 | {"rope_scaling": LONGROPE | {"type": older}}) == config
    path = write_checkpoint(tmp_path / "m", OLD_PHI3)
    Checkpoint.open(path)
    assert f"penjing: {path}: the context is 32 tokens of 128" in capsys.readouterr().err
    assert read(OLD_PHI3 | {"max_position_embeddings": 16}).max_positions == 16
    unstretched = Checkpoint.open(
        write_checkpoint(tmp_path / "n", OLD_PHI3 | {"max_position_embeddings": 32})
    )
    assert unstretched.notes == ()
    assert capsys.readouterr().err == ""


def test_part_of_a_head_is_rotated() -> None:
    assert read(PHI3 | {"partial_rotary_factor": 0.5}).rope.partial_rotary_factor == 0.5
    with pytest.raises(CorruptCheckpointError, match="short_factor is not a list of 3 numbers"):
        read(OLD_PHI3 | {"partial_rotary_factor": 0.5})


def test_gemma_in_old_and_new_spelling(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    old = read(GEMMA3)
    assert old.rope == RopeConfig(type="linear", theta=1e6, factor=8.0)
    assert old.local_rope == RopeConfig(theta=1e4)
    assert [block.sliding_window for block in old.blocks] == [24, 24, None]
    assert [old.rope_index(block) for block in old.blocks] == [1, 1, 0]
    assert (old.norm_offset, old.post_norms, old.attention_scalar, old.activation) == (
        1,
        True,
        20,
        "gelu_tanh",
    )
    assert old.embedding_scale == math.sqrt(48)
    theirs = transformers.AutoConfig.from_pretrained(write_checkpoint(tmp_path / "m", GEMMA3))
    theirs.save_pretrained(tmp_path / "saved")
    new = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert set(new["rope_parameters"]) == {"full_attention", "sliding_attention"}
    assert read(new) == old
    capped = read(GEMMA3 | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30})
    assert (capped.attention_softcap, capped.logit_softcap) == (50.0, 30.0)


def test_gemma_as_sparsely_as_it_is_published() -> None:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    scaling = {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "model_type": "gemma3_text"}
    config = read({"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": text | scaling})
    assert (config.vocab_size, config.head_dim, config.tied_head) == (262208, 256, True)
    assert (config.blocks[0].num_heads, config.blocks[0].num_kv_heads) == (8, 4)
    assert (config.eos_ids, config.bos_ids, config.max_positions) == ((1, 106), (2,), 131072)
    assert [block.sliding_window for block in config.blocks[:6]] == [1024] * 5 + [None]


def test_experts() -> None:
    blocks = read(QWEN3_MOE).blocks
    assert [block.feed_forward for block in blocks] == ["experts", "dense", "experts"]
    assert [block.intermediate_size for block in blocks] == [40, 100, 40]
    assert (blocks[0].num_experts, blocks[0].experts_per_token, blocks[0].normalize_experts) == (6, 2, True)
    every_third = read(without(QWEN3_MOE, "mlp_only_layers", "norm_topk_prob") | {"decoder_sparse_step": 3})
    assert [block.feed_forward for block in every_third.blocks] == ["dense", "dense", "experts"]
    assert not every_third.blocks[2].normalize_experts
    renamed = without(QWEN3_MOE, "num_experts") | {"num_local_experts": 6}
    assert read(renamed).blocks == blocks


@pytest.mark.parametrize(
    ("config", "change", "key"),
    [
        (GEMMA3, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA3, {"hidden_activation": "relu"}, "hidden_activation"),
        (GEMMA3, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters"),
        (GEMMA3, {"rope_scaling": {"rope_type": "longrope"}}, "rope_type"),
        (GEMMA3, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale"),
        (GEMMA3, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (GEMMA3, {"layer_types": ["full_attention"] * 2}, "layer_types"),
        (PHI3, {"hidden_act": "gelu"}, "hidden_act"),
        (PHI3, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
        (PHI3, {"partial_rotary_factor": 0.3}, "partial_rotary_factor"),
        (PHI3, {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        (PHI3, {"layer_types": ["full_attention"] * 2}, "layer_types"),
        (OLD_PHI3, {"original_max_position_embeddings": 1}, "original_max_position_embeddings"),
        (QWEN3_MOE, {"num_experts_per_tok": 7}, "num_experts_per_tok"),
        (QWEN3_MOE, {"mlp_only_layers": "all"}, "mlp_only_layers"),
        (QWEN3_MOE, {"num_experts": 10**9}, "num_experts"),
        (QWEN3_MOE, {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        (QWEN3_MOE, {"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_unsupported_settings_of_a_family(config: dict[str, Any], change: dict[str, Any], key: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=rf"config\.json: {key} is .* not supported; only"):
        read(config | change)
