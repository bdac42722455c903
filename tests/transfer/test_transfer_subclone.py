"""A subclone takes the same units from every tensor that touches them, the most important ones."""

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
from penjing.models.trainable import TrainableModel
from penjing.transfer.growth import grow
from penjing.transfer.importance import BlockImportance, Importance, measure_importance
from penjing.transfer.structure import resized
from penjing.transfer.subclone import subclone
from penjing.transfer.units import inner_axes

FAMILIES = ("LLAMA", "MISTRAL", "QWEN2", "QWEN3", "GEMMA3", "PHI3", "QWEN3_MOE")
TOKENS = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))


def opened(tmp_path: Path, settings: dict[str, Any]) -> TrainableModel:
    """A random model."""
    directory = checkpoints.write_checkpoint(tmp_path / "model", settings)
    return TrainableModel.of(Checkpoint.open(directory), TOKENS.shape[1])


def narrower(config: ModelConfig, hidden: int, num_blocks: int, **widths: int) -> ModelConfig:
    """A residual stream of `hidden`, the first blocks, and other widths in them."""
    blocks = tuple(block.model_copy(update=widths) for block in config.blocks[:num_blocks])
    return resized(config, hidden, blocks)


def falling(config: ModelConfig, first: bool) -> Importance:
    """Units whose importance falls (`first`) or rises with their number."""

    def ranked(count: int) -> Tensor:
        values = torch.arange(1.0, count + 1)
        return values.flip(0) if first else values

    blocks = tuple(
        BlockImportance(
            ranked(block.num_heads), {axis: ranked(block.intermediate_size) for axis in inner_axes(block)}
        )
        for block in config.blocks
    )
    return Importance(ranked(config.hidden_size), blocks)


def test_one_index_serves_every_tensor(tmp_path: Path) -> None:
    model = opened(tmp_path, checkpoints.LLAMA | {"attention_bias": True, "mlp_bias": True})
    source, config = model.tensors(), model.config
    target = narrower(config, 12, 2, num_heads=2, num_kv_heads=1, intermediate_size=25)
    cut = subclone(config, source, target, falling(config, first=False))
    hidden, inner, query, key = slice(36, 48), slice(75, 100), slice(24, 48), slice(12, 24)
    block = "blocks.1."
    assert torch.equal(cut["embedding"], source["embedding"][:, hidden])
    assert torch.equal(cut["head"], source["head"][:, hidden] * 2)
    assert torch.equal(cut["final_norm"], source["final_norm"][hidden])
    assert torch.equal(cut[f"{block}attention_norm"], source[f"{block}attention_norm"][hidden])
    assert torch.equal(cut[f"{block}query"], source[f"{block}query"][query, hidden] * 2)
    assert torch.equal(cut[f"{block}query_bias"], source[f"{block}query_bias"][query])
    for name in ("key", "value"):
        assert torch.equal(cut[block + name], source[block + name][key, hidden] * 2)
        assert torch.equal(cut[f"{block}{name}_bias"], source[f"{block}{name}_bias"][key])
    root = torch.tensor(2.0).sqrt()
    assert torch.equal(cut[f"{block}output"], source[f"{block}output"][hidden, query] * root)
    for name in ("gate", "up"):
        assert torch.equal(cut[block + name], source[block + name][inner, hidden] * 2)
        assert torch.equal(cut[f"{block}{name}_bias"], source[f"{block}{name}_bias"][inner])
    assert torch.equal(cut[f"{block}down"], source[f"{block}down"][hidden, inner] * 2)
    assert torch.equal(cut[f"{block}down_bias"], source[f"{block}down_bias"][hidden])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_cut_and_computes(tmp_path: Path, family: str) -> None:
    model = opened(tmp_path, getattr(checkpoints, family))
    target = narrower(model.config, 24, 2, num_heads=2, num_kv_heads=1, intermediate_size=20)
    cut = subclone(model.config, model.tensors(), target, measure_importance(model.model, TOKENS))
    logits = TrainableModel(target, cut, TOKENS.shape[1])(TOKENS)
    assert logits.shape == (3, 20, 50)
    assert logits.isfinite().all()


@pytest.mark.parametrize("family", ["LLAMA", "QWEN2", "GEMMA3", "QWEN3_MOE"])
def test_a_cut_of_nothing_is_the_source(tmp_path: Path, family: str) -> None:
    model = opened(tmp_path, getattr(checkpoints, family))
    cut = subclone(model.config, model.tensors(), model.config, falling(model.config, first=True))
    assert all(torch.equal(cut[name], tensor) for name, tensor in model.tensors().items())


def test_growth_is_undone(tmp_path: Path) -> None:
    """With all shares at the originals, and these the important ones, only the scales are left."""
    model = opened(tmp_path, checkpoints.LLAMA)
    config, source = model.config, model.tensors()
    wide = narrower(config, 48, 2, intermediate_size=400)
    grown = grow(config, source, wide, sharing="zero")
    back = subclone(wide, grown, config, falling(wide, first=True))
    assert torch.allclose(back["blocks.0.down"], source["blocks.0.down"] * 2)
    assert torch.equal(back["blocks.0.up"], source["blocks.0.up"])


def test_blocks_are_taken_evenly_or_by_importance(tmp_path: Path) -> None:
    model = opened(tmp_path, checkpoints.LLAMA | {"num_hidden_layers": 7})
    source, importance = model.tensors(), falling(model.config, first=True)
    values = (0.1, 0.3, 0.9, 0.2, 0.4, 0.8, 0.1)
    blocks = tuple(
        BlockImportance(block.heads, block.inner, value)
        for block, value in zip(importance.blocks, values, strict=True)
    )
    importance = Importance(importance.hidden, blocks)
    target = narrower(model.config, 48, 4)
    for rank_blocks, expected in ((False, (0, 2, 4, 6)), (True, (0, 2, 5, 6))):
        cut = subclone(model.config, source, target, importance, rank_blocks=rank_blocks)
        for place, index in enumerate(expected):
            assert torch.equal(cut[f"blocks.{place}.up"], source[f"blocks.{index}.up"])


def test_windows_decide_which_blocks_match(tmp_path: Path) -> None:
    """Gemma's third block sees everything: the one of the target comes from it and from no other."""
    model = opened(tmp_path, checkpoints.GEMMA3 | {"num_hidden_layers": 6})
    windows = [block.sliding_window for block in model.config.blocks]
    assert windows == [24, 24, None] * 2
    target = model.config.model_copy(update={"blocks": model.config.blocks[:3]})
    cut = subclone(model.config, model.tensors(), target, falling(model.config, first=True))
    assert torch.equal(cut["blocks.2.up"], model.tensors()["blocks.5.up"])
    impossible = target.model_copy(update={"blocks": (model.config.blocks[2],) * 3})
    with pytest.raises(SpecError, match="3 blocks cannot be matched with 6"):
        subclone(model.config, model.tensors(), impossible, falling(model.config, first=True))


def test_heads_go_with_their_group(tmp_path: Path) -> None:
    model = opened(tmp_path, checkpoints.LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 4})
    config, source = model.config, model.tensors()
    even = falling(config, first=True)
    heads = torch.tensor([0.0, 1, 9, 0, 4, 4, 3, 6])
    importance = Importance(even.hidden, tuple(BlockImportance(heads, block.inner) for block in even.blocks))
    cut = subclone(config, source, narrower(config, 48, 2, num_heads=2, num_kv_heads=2), importance)
    rows = torch.cat([torch.arange(24, 36), torch.arange(84, 96)])  # heads 2 and 7, of groups 1 and 3
    assert torch.equal(cut["blocks.0.query"], source["blocks.0.query"][rows])
    rows = torch.cat([torch.arange(12, 24), torch.arange(36, 48)])
    assert torch.equal(cut["blocks.0.key"], source["blocks.0.key"][rows])


def test_what_carries_nothing_is_least_important(tmp_path: Path) -> None:
    model = opened(tmp_path, checkpoints.QWEN3)
    with torch.no_grad():
        model.tensor("blocks.0.down")[:, 7] = 0
        model.tensor("blocks.1.gate")[9] = 0
        model.tensor("blocks.1.output")[:, 12:24] = 0
        for index in (0, 1):
            for norm in ("attention_norm", "feed_forward_norm"):
                model.tensor(f"blocks.{index}.{norm}")[5] = 0
        model.embedding.weight[:, 5] = 0
        for name in ("output", "down"):
            model.tensor(f"blocks.0.{name}")[5] = 0
            model.tensor(f"blocks.1.{name}")[5] = 0
    importance = measure_importance(model.model, TOKENS)
    first, second = importance.blocks
    assert first.inner["inner"].argmin() == 7
    assert second.inner["inner"].argmin() == 9
    assert second.heads.tolist().index(0.0) == 1
    assert importance.hidden.argmin() == 5
    assert importance.hidden[5] == 0
    assert 0 < first.block < 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 96}, "hidden_size is 96 in the target and 48 in the source"),
        ({"head_dim": 6}, "head_dim is 6"),
        ({"family": "qwen2"}, "family is 'qwen2' in the target and 'llama'"),
        ({"vocab_size": 51}, "vocab_size is 51"),
    ],
)
def test_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    model = opened(tmp_path, checkpoints.LLAMA)
    target = model.config.model_copy(update=change)
    with pytest.raises(SpecError, match=reason):
        subclone(model.config, model.tensors(), target, falling(model.config, first=True))


@pytest.mark.parametrize(
    ("widths", "reason"),
    [
        ({"intermediate_size": 101}, "block 0: intermediate_size is 101 in the target and 100"),
        ({"num_kv_heads": 4}, "block 0: num_kv_heads is 4 in the target and 2"),
        ({"num_kv_heads": 1}, "heads for each key-value head is 4 in the target and 2"),
    ],
)
def test_wider_blocks_are_refused(tmp_path: Path, widths: dict[str, int], reason: str) -> None:
    model = opened(tmp_path, checkpoints.LLAMA)
    target = narrower(model.config, 48, 2, **widths)
    with pytest.raises(SpecError, match=reason):
        subclone(model.config, model.tensors(), target, falling(model.config, first=True))
