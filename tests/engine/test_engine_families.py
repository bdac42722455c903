"""Families against transformers, through the path that users take: checkpoint, artifact, runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import pages_of, run_whole
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from penjing.engine.runner import CpuRunner
from penjing.engine.step import StepSequence
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset

NUM_PREFILL, NUM_DECODE = 300, 12

SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 92,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.2, 1.5, 2.0],
    "long_factor": [4.0, 5.0, 6.0, 7.0],
}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 77, "rope_parameters": GEMMA3_ROPES}
GEMMA3_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 36, "norm_topk_prob": True}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "llama-many-heads": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}),
    "llama-biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama-tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama-linear": LlamaConfig(**SHAPE, rope_parameters=LINEAR),
    "llama-yarn": LlamaConfig(**SHAPE, rope_parameters=YARN),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=77),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen2-tied": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32),
    "qwen3-tied": Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True),
    "qwen3_moe": Qwen3MoeConfig(**SHAPE, **EXPERTS, head_dim=32),
    "qwen3_moe-plain-weights": Qwen3MoeConfig(**SHAPE, **EXPERTS | {"norm_topk_prob": False}),
    "qwen3_moe-dense-between": Qwen3MoeConfig(**SHAPE, **EXPERTS, mlp_only_layers=[1]),
    "qwen3_moe-one-expert": Qwen3MoeConfig(**SHAPE, **EXPERTS | {"num_experts_per_tok": 1}),
    "phi3": Phi3Config(**SHAPE),
    "phi3-window": Phi3Config(**SHAPE, sliding_window=77),
    "phi3-part-of-head": Phi3Config(
        **SHAPE | {"num_attention_heads": 2},
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    ),
    "phi3-longrope": Phi3Config(
        **SHAPE | {"max_position_embeddings": 2048},
        original_max_position_embeddings=400,
        rope_parameters=LONGROPE | {"partial_rotary_factor": 0.7},
    ),
    "gemma3": Gemma3TextConfig(**SHAPE, **GEMMA3, layer_types=GEMMA3_LAYERS),
    "gemma3-softcap": Gemma3TextConfig(
        **SHAPE, **GEMMA3, layer_types=GEMMA3_LAYERS, final_logit_softcapping=5.0
    ),
    "gemma3-wide-heads": Gemma3TextConfig(
        **SHAPE, **GEMMA3 | {"head_dim": 256}, layer_types=GEMMA3_LAYERS, attention_bias=True
    ),
}


def random_model(config: PreTrainedConfig) -> Any:
    """Every parameter random, norms and biases included, so that none can be forgotten unseen."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.copy_(noise * 0.2 + ("norm" in name))
            else:
                parameter.copy_(noise * (1.0 if "embed" in name else 1.5 / parameter.shape[-1] ** 0.5))
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_family_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    model = random_model(CONFIGS[name])
    model.save_pretrained(tmp_path / "checkpoint")
    artifact = quantize_checkpoint(tmp_path / "checkpoint", tmp_path / "artifact", preset("keep"))
    num_tokens = NUM_PREFILL + NUM_DECODE
    tokens = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], num_tokens).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()

    runner = CpuRunner(artifact, threads=2)
    runner.allocate(pages_of(num_tokens))
    pages = np.arange(runner.num_pages, dtype=np.int32)[::-1].copy()
    logits = run_whole(runner, tokens[:NUM_PREFILL], pages)
    assert np.abs(expected).max() > 1, "a test that agrees on nothing"
    assert np.abs(logits - expected[:NUM_PREFILL]).max() < 1e-3
    for position in range(NUM_PREFILL, num_tokens):
        one = tokens[position : position + 1]
        row = runner.step([StepSequence(one, position, pages, np.zeros(1, np.int32))])
        assert np.abs(row[0] - expected[position]).max() < 1e-3


def test_trained_model_agrees_with_transformers(stories260k: Path, tmp_path: Path) -> None:
    artifact = quantize_checkpoint(stories260k, tmp_path / "artifact", preset("keep"))
    model = AutoModelForCausalLM.from_pretrained(stories260k, dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(3, 512, 200).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()
    runner = CpuRunner(artifact)
    runner.allocate(pages_of(len(tokens)))
    logits = run_whole(runner, tokens, np.arange(runner.num_pages, dtype=np.int32))
    assert np.abs(logits - expected).max() < 1e-3
