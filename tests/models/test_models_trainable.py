"""A checkpoint as a module, and written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import GEMMA3, LLAMA, MISTRAL, PHI3, QWEN2, QWEN3, QWEN3_MOE, write_checkpoint

from penjing.artifact.config import expected_tensors
from penjing.errors import CheckpointShapeError, CorruptCheckpointError, OutputExistsError
from penjing.models import Checkpoint
from penjing.models import writing as writing_module
from penjing.models.torch_model import TorchModel, tensor_of
from penjing.models.trainable import TrainableModel, random_model

FAMILIES = [LLAMA, MISTRAL, QWEN2, QWEN3, QWEN3_MOE, PHI3, GEMMA3]
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (2, 20)))


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config["model_type"])
def test_a_written_model_is_the_same(tmp_path: Path, config: dict[str, Any]) -> None:
    source = Checkpoint.open(write_checkpoint(tmp_path / "m", config))
    model = TrainableModel.of(source, 20)
    logits = model(TOKENS)
    plain = TorchModel(source.config, lambda name: tensor_of(source.read(name)).float(), 20)
    assert torch.equal(logits, plain(TOKENS))
    assert list(model.tensors()) == list(expected_tensors(source.config))
    written = writing_module.write_checkpoint(
        tmp_path / "w", model.config, model.tensors(), like=source, dtype="fp32"
    )
    assert torch.equal(TrainableModel.of(written, 20)(TOKENS), logits)
    transformers = pytest.importorskip("transformers")
    published = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "w", dtype=torch.float32)
    with torch.no_grad():
        assert (published.eval()(TOKENS).logits - logits).abs().max() < 1e-3
    with pytest.raises(OutputExistsError):
        writing_module.write_checkpoint(tmp_path / "w", model.config, model.tensors())


def test_blocks_of_different_widths_are_written_and_read(tmp_path: Path) -> None:
    source = Checkpoint.open(write_checkpoint(tmp_path / "m", LLAMA))
    blocks = list(source.config.blocks)
    blocks[1] = blocks[1].model_copy(update={"intermediate_size": 24})
    config = source.config.model_copy(update={"blocks": tuple(blocks)})
    tensors = {name: tensor_of(source.read(name)).float() for name in expected_tensors(source.config)}
    for name, columns in (("gate", False), ("up", False), ("down", True)):
        whole = tensors[f"blocks.1.{name}"]
        tensors[f"blocks.1.{name}"] = whole[:, :24] if columns else whole[:24]
    written = writing_module.write_checkpoint(tmp_path / "w", config, tensors, like=source)
    assert written.config.blocks == config.blocks
    assert torch.equal(TrainableModel.of(written, 20)(TOKENS), TrainableModel(config, tensors, 20)(TOKENS))
    path = tmp_path / "w" / "config.json"
    path.write_text(path.read_text().replace("24\n", "0\n"))
    with pytest.raises(CorruptCheckpointError, match="penjing_block_widths has"):
        Checkpoint.open(tmp_path / "w")


def test_tensors_must_be_those_of_the_configuration(tmp_path: Path) -> None:
    source = Checkpoint.open(write_checkpoint(tmp_path / "m", LLAMA))
    tensors = {name: tensor_of(source.read(name)).float() for name in expected_tensors(source.config)}
    with pytest.raises(CheckpointShapeError, match=r"final_norm is \[3\]"):
        TrainableModel(source.config, tensors | {"final_norm": torch.ones(3)}, 20)
    del tensors["blocks.0.up"]
    with pytest.raises(CheckpointShapeError, match=r"disagree about blocks\.0\.up"):
        TrainableModel(source.config, tensors, 20)


def test_gradients_dropout_and_beginnings(tmp_path: Path) -> None:
    source = Checkpoint.open(write_checkpoint(tmp_path / "m", LLAMA))
    model = random_model(source.config, 20, seed=1, dropout=0.5)
    assert torch.equal(model.eval()(TOKENS), random_model(source.config, 20, seed=1).eval()(TOKENS))
    assert not torch.equal(model.train()(TOKENS), model(TOKENS))
    model.eval()(TOKENS).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    states = model.hidden_states(TOKENS)
    assert len(states) == len(source.config.blocks) + 1
    assert torch.equal(model.model.logits(states[-1]), model(TOKENS))
