"""What a format of the KV cache does to attention scores: keys that are mixed against keys that are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from penjing.kernels.attention_reference import cached, mix, mixed_together, quantize_to_cells
from penjing.models import SEEDLING, SEEDLING_TEXT
from penjing.text import Tokenizer

Floats = NDArray[np.float32]


def score_error(queries: Floats, keys: Floats, bits: int, *, mixed: bool) -> float:
    """Mean squared error of queries [n, head_dim] times keys [tokens, head_dim] that are rounded to cells."""
    kept = cached(keys, f"int{bits}", True) if mixed else quantize_to_cells(keys, bits)
    asked = mix(queries) / np.float32(mixed_together(queries.shape[-1])) if mixed else queries
    scores = asked @ (kept.codes.astype(np.float32) * kept.scales[:, None]).T
    return float(np.mean((scores - queries @ keys.T) ** 2))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("bits", [4, 5, 6])
def test_mixing_takes_outlying_channels_apart(head_dim: int, bits: int) -> None:
    """Two channels of every key are far out, as in published models."""
    generator = np.random.default_rng(0)
    queries, keys = generator.standard_normal((2, 300, head_dim), np.float32)
    keys[:, [3, head_dim // 2 + 5]] += [20, -14]
    plain, mixed = (score_error(queries, keys, bits, mixed=mixed) for mixed in (False, True))
    assert plain > 4 * mixed


@pytest.fixture(scope="module")
def captured() -> list[tuple[Floats, Floats]]:
    """Queries and keys [heads, tokens, head_dim] of every block of Seedling, as they meet in its cache."""
    torch = pytest.importorskip("torch")
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    model = llama.LlamaForCausalLM.from_pretrained(SEEDLING, dtype=torch.float32)
    with SEEDLING_TEXT.open(encoding="utf-8") as lines:
        tokens = Tokenizer.load(SEEDLING).encode(json.loads(next(lines))["text"])
    found, rotate = [], llama.apply_rotary_pos_emb

    def spy(*arguments):
        turned = rotate(*arguments)
        found.append(tuple(heads[0].numpy() for heads in turned))
        return turned

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(llama, "apply_rotary_pos_emb", spy)
        model(torch.tensor([tokens[:256]]))
    return found


@pytest.mark.parametrize("bits", [4, 5, 6])
def test_mixing_never_hurts_seedling(captured: list[tuple[Floats, Floats]], bits: int) -> None:
    assert len(captured) == 6
    for queries, keys in captured:
        grouped = queries.reshape(len(keys), -1, queries.shape[-1])
        errors = [
            sum(score_error(q, k, bits, mixed=mixed) for q, k in zip(grouped, keys, strict=True))
            for mixed in (False, True)
        ]
        assert errors[1] <= errors[0]
