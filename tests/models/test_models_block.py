"""Blocks in torch against transformers, family by family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import GEMMA3, LLAMA, MISTRAL, PHI3, QWEN2, QWEN3, QWEN3_MOE, write_checkpoint

from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of

LENGTH = 40
FAMILIES = {
    "llama-bias": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama-3": LLAMA
    | {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "mistral": MISTRAL | {"sliding_window": 16},
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3-moe": QWEN3_MOE,
    "phi3": PHI3,
    "gemma3": GEMMA3,
    "gemma3-capped": GEMMA3 | {"final_logit_softcapping": 3.0},
}


def torch_model(source: Path) -> TorchModel:
    checkpoint = Checkpoint.open(source)
    return TorchModel(checkpoint.config, lambda name: tensor_of(checkpoint.read(name)), LENGTH)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    config: dict[str, Any] = FAMILIES[name]
    source = write_checkpoint(tmp_path / "m", config)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, config["vocab_size"], (2, LENGTH)))
    theirs = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs(tokens).logits
        ours = torch_model(source)(tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_steps_add_up_to_the_block(tmp_path: Path) -> None:
    model = torch_model(write_checkpoint(tmp_path / "m", LLAMA))
    block, weights = model.block(0), model.block_weights(0)
    hidden = torch.randn(2, LENGTH, 48, generator=torch.Generator().manual_seed(0))
    inputs = block.attention_input(weights, hidden)
    after = block.after_attention(weights, hidden, block.attention(weights, inputs))
    inner = block.inner(weights, block.feed_forward_input(weights, after))
    outputs = block.after_feed_forward(weights, after, block.linear(weights, "down", inner))
    assert torch.equal(outputs, block(weights, hidden))


def test_bfloat16_is_read_as_it_is(tmp_path: Path) -> None:
    import ml_dtypes

    numbers = np.array([[1.5, -3.0, 1e-20]], ml_dtypes.bfloat16)
    assert tensor_of(numbers).tolist() == numbers.astype(np.float32).tolist()
    assert tensor_of(numbers).dtype == torch.bfloat16


def test_scores_are_capped(tmp_path: Path) -> None:
    """Attention under a soft cap, written out; a cap far beyond the scores changes nothing."""
    model = torch_model(write_checkpoint(tmp_path / "m", MISTRAL | {"sliding_window": 8}))
    block = model.block(0)
    query, key, value = torch.randn(3, 1, 2, LENGTH, 12, generator=torch.Generator().manual_seed(1)) * 3

    def attend(cap: float | None) -> torch.Tensor:
        capped = block.config.model_copy(update={"attention_softcap": cap})
        return replace(block, config=capped).attend(query, key, value)

    torch.testing.assert_close(attend(1e6), attend(None), rtol=1e-3, atol=1e-4)
    row, cap = 20, 2.0
    seen = slice(row - 7, row + 1)
    scores = cap * torch.tanh(query[0, 1, row] @ key[0, 1, seen].T / 12**0.5 / cap)
    torch.testing.assert_close(attend(cap)[0, 1, row], scores.softmax(-1) @ value[0, 1, seen])
