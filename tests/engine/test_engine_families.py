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
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
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
                parameter.copy_(noise * (1.0 if "embed" in name else 1.5 / parameter.shape[1] ** 0.5))
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
