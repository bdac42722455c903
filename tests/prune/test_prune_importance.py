"""Scores against their definitions, one unit at a time; what does nothing is worth least."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import LLAMA, QWEN3_MOE
from pruning_samples import TOKENS, loaded
from torch.nn import functional

from penjing.errors import UnsupportedConfigError
from penjing.models.torch_model import TorchModel
from penjing.prune import importance as importance_module
from penjing.prune import taylor as taylor_module
from penjing.prune.importance import activation_importance
from penjing.prune.structured import JUDGES
from penjing.prune.taylor import gradient_importance, gradient_products


def test_activations_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tensors = loaded(tmp_path, LLAMA)
    found = activation_importance(config, tensors, TOKENS)
    model = TorchModel(config, tensors.__getitem__, 20)
    hidden, block = model.embed(TOKENS), model.block(0)
    weights = model.block_weights(0)
    inputs = block.attention_input(weights, hidden)
    attended = block.attention(weights, inputs)
    middle = block.after_attention(weights, hidden, attended)
    inner = block.inner(weights, block.feed_forward_input(weights, middle))
    channel = inner[..., 7].abs().mean() * weights["down"][:, 7].norm()
    assert torch.allclose(found.channels[0][7], channel, rtol=1e-4)
    columns = range(24, 48)  # the second group: two query heads of 12
    group = sum(float(attended[..., j].abs().mean() * weights["output"][:, j].norm()) for j in columns)
    assert float(found.groups[0][1]) == pytest.approx(group, rel=1e-4)
    after = block(weights, hidden)
    turn = (1 - functional.cosine_similarity(hidden, after, dim=-1)).mean()
    assert torch.allclose(found.blocks[0], turn, rtol=1e-4)
    assert [len(scores) for scores in found.channels] == [100, 100]
    assert found.hidden.shape == (48,)
    monkeypatch.setattr("penjing.prune.walk.CHUNK_TOKENS", 40)
    chunked = activation_importance(config, tensors, TOKENS)
    assert torch.allclose(chunked.hidden, found.hidden, rtol=1e-4)
    assert torch.allclose(chunked.blocks, found.blocks, rtol=1e-4)


def test_gradients_by_hand(tmp_path: Path) -> None:
    config, tensors = loaded(tmp_path, LLAMA)
    live = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    output = TorchModel(config, live.__getitem__, 20)(TOKENS)
    functional.cross_entropy(output[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    products = {name: (tensor * tensor.grad).abs().detach() for name, tensor in live.items()}  # type: ignore[operator]
    found = gradient_importance(config, tensors, TOKENS)
    of = {name.removeprefix("blocks.1."): product for name, product in products.items()}
    channel = of["gate"][3].sum() + of["up"][3].sum() + of["down"][:, 3].sum()
    assert torch.allclose(found.channels[1][3], channel, rtol=1e-3)
    group = (
        of["query"][:24].sum() + of["output"][:, :24].sum() + of["key"][:12].sum() + of["value"][:12].sum()
    )
    assert torch.allclose(found.groups[1][0], group, rtol=1e-3)
    hidden = sum(
        float(product[..., 5].sum()) if not name.endswith((".output", ".down")) else float(product[5].sum())
        for name, product in products.items()
    )
    assert float(found.hidden[5]) == pytest.approx(hidden, rel=1e-3)
    assert float(found.blocks[0]) == pytest.approx(
        sum(float(product.sum()) for name, product in products.items() if name.startswith("blocks.0.")),
        rel=1e-3,
    )


def test_gradients_are_taken_in_batches_and_whether_or_not_anyone_turned_them_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, tensors = loaded(tmp_path, LLAMA)
    monkeypatch.setattr(taylor_module, "BATCH_TOKENS", 80)  # four sequences, then two
    with torch.no_grad():
        both = gradient_products(config, tensors, TOKENS)
    first, second = (gradient_products(config, tensors, part) for part in (TOKENS[:4], TOKENS[4:]))
    for name, product in both.items():
        assert torch.allclose(product, (4 * first[name] + 2 * second[name]) / 6, atol=1e-7)


@pytest.mark.parametrize("judge", JUDGES)
def test_what_does_nothing_is_worth_nothing(tmp_path: Path, judge: str) -> None:
    config, tensors = loaded(tmp_path, LLAMA)
    tensors["blocks.0.down"][:, 31] = 0
    tensors["blocks.1.output"][:, :24] = 0
    for name in ("output", "down"):
        tensors[f"blocks.0.{name}"][9] = 0
        tensors[f"blocks.1.{name}"][9] = 0
    tensors["embedding"][:, 9] = 0
    found = JUDGES[judge](config, tensors, TOKENS)
    assert found.channels[0].argmin() == 31
    assert found.groups[1].argmin() == 0
    assert found.hidden.argmin() == 9
    tensors["blocks.1.output"][:], tensors["blocks.1.down"][:] = 0, 0
    found = JUDGES[judge](config, tensors, TOKENS)
    assert abs(float(found.blocks[1])) < 1e-5 < float(found.blocks[0])


@pytest.mark.parametrize("judge", JUDGES)
def test_experts_are_refused_by_name(tmp_path: Path, judge: str) -> None:
    config, tensors = loaded(tmp_path, QWEN3_MOE)
    with pytest.raises(UnsupportedConfigError, match="qwen3_moe: block 0 has experts"):
        JUDGES[judge](config, tensors, TOKENS)


def test_readers_of_one_input_count_together() -> None:
    weights = {"gate": torch.tensor([[3.0, 0]]), "up": torch.tensor([[4.0, 1]])}
    assert importance_module.joined_norms(weights, "gate").tolist() == [5, 1]
