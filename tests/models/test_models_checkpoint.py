from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoints import LLAMA, QWEN2, QWEN3, random_tensors, write_checkpoint

from penjing.artifact import expected_tensors
from penjing.errors import (
    CheckpointNotFoundError,
    CheckpointShapeError,
    CorruptCheckpointError,
    MissingShardError,
    UnsupportedConfigError,
)
from penjing.models import Checkpoint


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_every_tensor_comes_back_in_its_own_dtype(tmp_path: Path, dtype: object, num_shards: int) -> None:
    tensors = random_tensors(QWEN3, dtype)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "m", QWEN3, dtype=dtype, num_shards=num_shards))
    assert list(checkpoint.tensors) == list(expected_tensors(checkpoint.config))
    assert checkpoint.tensor_bytes == sum(tensor.nbytes for tensor in tensors.values())
    for name, published in [
        ("embedding", "model.embed_tokens.weight"),
        ("blocks.1.key_norm", "model.layers.1.self_attn.k_norm.weight"),
        ("blocks.0.down", "model.layers.0.mlp.down_proj.weight"),
        ("head", "lm_head.weight"),
    ]:
        array = checkpoint.read(name)
        assert array.dtype == dtype
        assert array.tobytes() == tensors[published].tobytes()


def test_hash_is_of_the_content(tmp_path: Path) -> None:
    one = Checkpoint.open(write_checkpoint(tmp_path / "one"))
    sharded = Checkpoint.open(write_checkpoint(tmp_path / "sharded", num_shards=4))
    for name in reversed(one.tensors):
        one.read(name)
    assert one.hash == sharded.hash
    tensors = random_tensors(LLAMA)
    tensors["model.norm.weight"][3] += 1
    assert Checkpoint.open(write_checkpoint(tmp_path / "w", tensors=tensors)).hash != one.hash
    assert Checkpoint.open(write_checkpoint(tmp_path / "e", LLAMA | {"rms_norm_eps": 1e-6})).hash != one.hash
    assert Checkpoint.open(write_checkpoint(tmp_path / "d", dtype=np.float16)).hash != one.hash
    (tmp_path / "one" / "config.json").write_text(json.dumps(LLAMA | {"transformers_version": "9"}))
    assert Checkpoint.open(tmp_path / "one").hash == sharded.hash


def test_a_directory_has_no_name(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "tiny"))
    assert (checkpoint.name, checkpoint.revision) == (None, None)


def test_tensor_that_changes_while_in_use(tmp_path: Path) -> None:
    """What is made of a checkpoint carries its hash, so every reading must find the same bytes."""
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "m"))
    before = checkpoint.read("head")
    assert np.array_equal(checkpoint.read("head"), before)
    write_checkpoint(tmp_path / "m", seed=1)
    with pytest.raises(CorruptCheckpointError, match=r"head was changed while it was in use"):
        checkpoint.read("head")


def test_tied_head_may_be_stored_twice_if_equal(tmp_path: Path) -> None:
    tensors = random_tensors(QWEN2)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "same", QWEN2, tensors=tensors))
    assert "head" not in checkpoint.tensors
    tensors["lm_head.weight"][0, 0] += 1
    with pytest.raises(CheckpointShapeError, match="tie_word_embeddings"):
        Checkpoint.open(write_checkpoint(tmp_path / "other", QWEN2, tensors=tensors))


def test_old_rotary_buffers_are_explained_and_nothing_else_is(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, np.float32)
    Checkpoint.open(write_checkpoint(tmp_path / "old", tensors=tensors))
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(48, np.float32)
    with pytest.raises(CheckpointShapeError, match=r"q_proj\.bias"):
        Checkpoint.open(write_checkpoint(tmp_path / "bias", tensors=tensors))


def test_missing_tensor(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointShapeError, match=r"layers\.1\.mlp\.up_proj"):
        Checkpoint.open(write_checkpoint(tmp_path / "m", tensors=tensors))


def test_wrong_shape(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.norm.weight"] = np.ones(47, np.float32)
    with pytest.raises(CheckpointShapeError, match=r"model\.norm\.weight is \[47\]"):
        Checkpoint.open(write_checkpoint(tmp_path / "m", tensors=tensors))


def test_missing_shard(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", num_shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MissingShardError, match="model-00002"):
        Checkpoint.open(path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m")
    (path / "model.safetensors").unlink()
    with pytest.raises(MissingShardError, match=r"model\.safetensors"):
        Checkpoint.open(path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(MissingShardError, match="convert"):
        Checkpoint.open(path)


def test_shard_without_a_tensor_the_index_promises(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", num_shards=2)
    index = path / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(data))
    with pytest.raises(CorruptCheckpointError, match=r"model\.extra\.weight"):
        Checkpoint.open(path)


def test_index_cannot_reach_out_of_the_directory(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", num_shards=2)
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    )
    with pytest.raises(CorruptCheckpointError, match="elsewhere"):
        Checkpoint.open(path)


def test_sparse_index_does_not_repeat_a_tensor(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", num_shards=2)
    shutil.copy(path / "model-00001-of-00002.safetensors", path / "model-00002-of-00002.safetensors")
    with pytest.raises(CorruptCheckpointError):
        Checkpoint.open(path)


@pytest.mark.parametrize("keep", [0, 5, 8, 40, 0.5, -1])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    path = write_checkpoint(tmp_path / "m")
    size = (path / "model.safetensors").stat().st_size
    length = int(size * keep) if isinstance(keep, float) else keep % size
    os.truncate(path / "model.safetensors", length)
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(path)


def test_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m")
    checkpoint = Checkpoint.open(path)
    os.truncate(path / "model.safetensors", checkpoint.tensors["blocks.1.up"].offset + 10)
    with pytest.raises(CorruptCheckpointError, match="up_proj"):
        checkpoint.read("blocks.1.up")


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"a": entry(shape=[3])}).encode(),
        json.dumps({"a": entry(shape=[-2])}).encode(),
        json.dumps({"a": entry(data_offsets=[8, 0])}).encode(),
        json.dumps({"a": entry(data_offsets=[-8, 0])}).encode(),
        json.dumps({"a": entry(data_offsets=[0, 1 << 60], shape=[1 << 58])}).encode(),
        json.dumps({"a": entry(), "b": entry(data_offsets=[4, 12])}).encode(),
        json.dumps({"a": 7}).encode(),
        json.dumps({"a": {"dtype": "F32"}}).encode(),
    ],
)
def test_malformed_header(tmp_path: Path, header: bytes) -> None:
    path = write_checkpoint(tmp_path / "m")
    data = len(header).to_bytes(8, "little") + header + bytes(16)
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(CorruptCheckpointError) as caught:
        Checkpoint.open(path)
    assert "\n" not in str(caught.value)


def test_other_dtype_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.float64)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "m", tensors=tensors))
    with pytest.raises(UnsupportedConfigError, match=r"lm_head\.weight is F64"):
        checkpoint.read("head")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"model_type": ', "\xff"])
def test_broken_config(tmp_path: Path, text: str) -> None:
    path = write_checkpoint(tmp_path / "m")
    (path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        Checkpoint.open(path)


@pytest.mark.parametrize("refused", ["config.json", "model.safetensors"])
def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    path = write_checkpoint(tmp_path / "m")
    permitted = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == refused:
            raise PermissionError(13, "Permission denied")
        return permitted(self, *arguments, **options)

    checkpoint = Checkpoint.open(path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorruptCheckpointError, match=rf"{refused}: cannot be read \(Permission denied\)"):
        Checkpoint.open(path)
    if refused != "config.json":
        with pytest.raises(CorruptCheckpointError, match="Permission denied"):
            checkpoint.read("head")


def test_path_that_the_system_refuses() -> None:
    with pytest.raises(CorruptCheckpointError, match="File name too long"):
        Checkpoint.open("a" * 5000)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json"):
        Checkpoint.open(tmp_path)
    for name in ("./nowhere", str(tmp_path / "nowhere"), "../up", "a/b/c"):
        with pytest.raises(CheckpointNotFoundError, match="no such directory"):
            Checkpoint.open(name)


def test_stories260k(stories260k: Path) -> None:
    checkpoint = Checkpoint.open(stories260k)
    assert checkpoint.config.family == "llama"
    assert (checkpoint.config.hidden_size, len(checkpoint.config.blocks)) == (64, 5)
    assert checkpoint.config.tied_head
    assert checkpoint.config.eos_ids == (2,)
    assert np.isfinite(checkpoint.read("embedding")).all()
