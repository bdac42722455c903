"""Adapters alone train, merge into the same logits, and belong to one base."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from penjing.errors import CheckpointNotFoundError, CorruptCheckpointError, OutputExistsError, SpecError
from penjing.models import Checkpoint
from penjing.models.trainable import TrainableModel
from penjing.training.loop import Task, TrainingConfig, train
from penjing.training.optimizers import AdamW
from penjing.transfer.adapters import AdaptedModel, AdapterConfig, adapt, load_adapters, save_adapters

TOKENS = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(0))
CONFIG = AdapterConfig(matrices=("query", "down"), rank=3, alpha=6.0)


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(checkpoints.write_checkpoint(tmp_path / "base", checkpoints.QWEN3))


def trained(base: Checkpoint) -> AdaptedModel:
    """Adapters after some steps."""
    model = adapt(base, TOKENS.shape[1], CONFIG)

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    before = loss(TOKENS).item()
    train(Task(model, lambda _: TOKENS, loss), TrainingConfig(num_steps=10, optimizer=AdamW(0.02)))
    assert loss(TOKENS).item() < before - 0.1
    return model


def test_adapters_begin_as_the_base_and_alone_train(base: Checkpoint) -> None:
    plain = TrainableModel.of(base, TOKENS.shape[1])
    assert torch.equal(adapt(base, TOKENS.shape[1], CONFIG)(TOKENS), plain(TOKENS))
    model = trained(base)
    changed = {
        name for name, tensor in plain.tensors().items() if not torch.equal(tensor, model.tensors()[name])
    }
    assert changed == {f"blocks.{index}.{name}" for index in (0, 1) for name in ("query", "down")}
    change = model.tensors()["blocks.1.down"] - plain.tensor("blocks.1.down")
    assert torch.linalg.matrix_rank(change.detach(), atol=1e-5) == 3
    assert torch.equal(TrainableModel.tensor(model, "blocks.1.down"), plain.tensor("blocks.1.down"))
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == 2 * 3 * ((48 + 48) + (100 + 48))


def test_merging_keeps_the_logits(base: Checkpoint) -> None:
    model = trained(base)
    merged = TrainableModel(model.config, model.merged(), TOKENS.shape[1])
    assert (merged(TOKENS) - model(TOKENS)).abs().max() < 1e-5
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_adapters_are_saved_alone_and_come_back(base: Checkpoint, tmp_path: Path) -> None:
    model, path = trained(base), tmp_path / "adapters.safetensors"
    save_adapters(path, model, base)
    assert path.stat().st_size < 4 * 2 * 3 * ((48 + 48) + (100 + 48)) + 2000
    again = load_adapters(path, base, TOKENS.shape[1])
    assert again.adapters == CONFIG
    assert torch.equal(again(TOKENS), model(TOKENS))
    with pytest.raises(OutputExistsError, match="exists already"):
        save_adapters(path, model, base)
    save_adapters(path, model, base, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapters.safetensors", "base"]


def test_another_base_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    save_adapters(path, adapt(base, 8, CONFIG), base)
    other = Checkpoint.open(checkpoints.write_checkpoint(tmp_path / "other", checkpoints.QWEN3, seed=1))
    with pytest.raises(SpecError, match=r"made for the model .* choose the base"):
        load_adapters(path, other, 8)


def test_other_files_are_refused(base: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        load_adapters(path, base, 8)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CorruptCheckpointError, match="not Penjing's adapters"):
        load_adapters(path, base, 8)
    for metadata in (None, {"penjing_adapters": "[]"}, {"penjing_adapters": "{"}):
        save_file({"a": torch.zeros(1)}, path, metadata)
        with pytest.raises(CorruptCheckpointError, match="not Penjing's adapters"):
            load_adapters(path, base, 8)


def test_a_missing_tensor_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    save_adapters(path, adapt(base, 8, CONFIG), base)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors.pop("blocks.0.query.lower")
    save_file(tensors, path, metadata)
    with pytest.raises(CorruptCheckpointError, match=r"blocks.0.query.lower does not fit"):
        load_adapters(path, base, 8)


@pytest.mark.parametrize("name", ["embedding", "attention_norm", "quary"])
def test_names_that_are_no_matrix_are_refused(base: Checkpoint, name: str) -> None:
    with pytest.raises(SpecError, match=f"'{name}' is no matrix"):
        adapt(base, 8, AdapterConfig(matrices=("query", name)))


def test_rank_is_at_least_one() -> None:
    with pytest.raises(SpecError, match="rank 0"):
        AdapterConfig(rank=0)
