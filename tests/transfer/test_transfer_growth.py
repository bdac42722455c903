"""A grown model computes what the smaller one did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from torch import Tensor

from penjing.artifact import ModelConfig
from penjing.errors import SpecError
from penjing.models import Checkpoint
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.transfer.growth import Sharing, grow
from penjing.transfer.structure import resized

FAMILIES = ("LLAMA", "MISTRAL", "QWEN2", "QWEN3", "GEMMA3", "PHI3", "QWEN3_MOE")
BIASED = checkpoints.LLAMA | {"attention_bias": True, "mlp_bias": True}
TOKENS = torch.randint(0, 50, (2, 30), generator=torch.Generator().manual_seed(0))


def opened(tmp_path: Path, settings: dict[str, Any]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A random model's configuration and tensors."""
    checkpoint = Checkpoint.open(checkpoints.write_checkpoint(tmp_path / "model", settings))
    return checkpoint.config, {name: tensor_of(checkpoint.read(name)) for name in checkpoint.tensors}


def logits(config: ModelConfig, tensors: dict[str, Tensor]) -> Tensor:
    """Of TOKENS."""
    return TorchModel(config, tensors.__getitem__, TOKENS.shape[1])(TOKENS)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, as a part of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def larger(config: ModelConfig, *, times: int = 1, **widths: int) -> ModelConfig:
    """The configuration with other widths in every block, and a residual stream `times` as wide."""
    blocks = tuple(block.model_copy(update=widths) for block in config.blocks)
    return resized(config, config.hidden_size * times, blocks)


def deeper(config: ModelConfig) -> ModelConfig:
    """Every block twice, in the family's own order of windows and experts."""
    return config.model_copy(update={"blocks": config.blocks * 2})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharing", ["split", "zero"])
def test_logits_stay(tmp_path: Path, family: str, sharing: Sharing) -> None:
    config, tensors = opened(tmp_path, getattr(checkpoints, family))
    before = logits(config, tensors)
    targets = {
        "feed-forward": larger(config, intermediate_size=230),
        "groups of heads": larger(config, num_heads=10, num_kv_heads=5),
        "heads of a group": larger(config, num_heads=6),
        "depth": deeper(config),
        "residual stream": larger(config, times=3),
        "all": deeper(larger(config, times=2, num_heads=9, num_kv_heads=3, intermediate_size=128)),
    }
    for what, target in targets.items():
        grown = grow(config, tensors, target, sharing=sharing)
        assert difference(logits(target, grown), before) < 1e-5, what


def test_biases_follow(tmp_path: Path) -> None:
    config, tensors = opened(tmp_path, BIASED)
    target = deeper(larger(config, times=2, num_heads=8, num_kv_heads=4, intermediate_size=150))
    grown = grow(config, tensors, target)
    assert grown["blocks.3.down_bias"].shape == (96,)
    assert difference(logits(target, grown), logits(config, tensors)) < 1e-5


def test_copies_are_told_apart_by_training(tmp_path: Path) -> None:
    """An even split would give a unit and its copy one gradient for ever."""
    config, tensors = opened(tmp_path, checkpoints.LLAMA)
    target = larger(config, intermediate_size=200)
    for sharing in ("split", "zero"):
        grown = grow(config, tensors, target, sharing=sharing)  # type: ignore[arg-type]
        up = grown["blocks.0.up"].requires_grad_()
        logits(target, grown).square().mean().backward()
        originals, copies = up.grad[:100], up.grad[100:]  # type: ignore[index]
        order = (up[100:, None] == up[None, :100]).all(-1).nonzero()[:, 1]
        assert len(order) == 100
        assert ((originals[order] - copies).abs().amax(1) > 0).all()


def test_new_blocks_learn_from_the_first_step(tmp_path: Path) -> None:
    for family, learning in (("LLAMA", "down"), ("GEMMA3", "post_feed_forward_norm")):
        config, tensors = opened(tmp_path / family, getattr(checkpoints, family))
        target = deeper(config)
        grown = grow(config, tensors, target)
        weight = grown[f"blocks.1.{learning}"].requires_grad_()
        logits(target, grown).square().mean().backward()
        assert weight.grad is not None
        assert 0 < weight.grad.abs().max() < 1


def test_one_seed_one_model(tmp_path: Path) -> None:
    config, tensors = opened(tmp_path, checkpoints.LLAMA)
    target = larger(config, intermediate_size=130)
    first, again, other = (grow(config, tensors, target, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.down"], other["blocks.0.down"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 72}, "hidden_size 72 .* choose a multiple of 48"),
        ({"hidden_size": 24}, "hidden_size is 24 in the target and 48"),
        ({"head_dim": 24}, "head_dim is 24 in the target and 12"),
        ({"family": "mistral"}, "family is 'mistral' in the target and 'llama'"),
        ({"tied_head": True}, "tied_head is True"),
    ],
)
def test_what_cannot_stay_exact_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    config, tensors = opened(tmp_path, checkpoints.LLAMA)
    with pytest.raises(SpecError, match=reason):
        grow(config, tensors, config.model_copy(update=change))


def test_smaller_blocks_are_refused(tmp_path: Path) -> None:
    config, tensors = opened(tmp_path, checkpoints.GEMMA3)
    with pytest.raises(SpecError, match="block 0: intermediate_size is 64 in the target and 100"):
        grow(config, tensors, larger(config, intermediate_size=64))
    with pytest.raises(SpecError, match="heads for each key-value head is 1"):
        grow(config, tensors, larger(config, num_kv_heads=4))
    with pytest.raises(SpecError, match="the number of blocks is 2"):
        grow(config, tensors, config.model_copy(update={"blocks": config.blocks[:2]}))
    reordered = config.model_copy(update={"blocks": config.blocks[::-1]})
    with pytest.raises(SpecError, match="cannot be matched"):
        grow(config, tensors, reordered)
