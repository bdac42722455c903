"""The reference artifact: made once, verified on reuse, made anew when damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from penjing.artifact import Artifact
from penjing.models import Checkpoint
from penjing.optimize.reference import cache_directory, reference_artifact


def test_it_keeps_every_weight(checkpoint: Path, reference: Path, cache: Path) -> None:
    artifact, source = Artifact.open(reference), Checkpoint.open(checkpoint)
    assert reference.is_relative_to(cache)
    assert cache_directory() == cache
    assert {artifact.matrix(name).format for name in ("embedding", "blocks.0.query", "head")} == {"fp32"}
    assert all(block.key_format == block.value_format == "fp32" for block in artifact.config.blocks)
    assert artifact.manifest.provenance.source.hash == source.hash
    np.testing.assert_array_equal(artifact.vector("final_norm"), source.read("final_norm"))


def test_it_is_made_once(checkpoint: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []

    def note(stage: str, done: int, total: int) -> None:
        steps.append((stage, done, total))

    first = reference_artifact(checkpoint, directory=tmp_path, progress=note)
    assert steps[-1][1] == steps[-1][2]
    steps.clear()
    assert reference_artifact(checkpoint, directory=tmp_path, progress=note) == first
    assert steps == []


def test_a_damaged_copy_is_replaced_aloud(checkpoint: Path, tmp_path: Path) -> None:
    path = reference_artifact(checkpoint, directory=tmp_path)
    whole = (path / "tensors.bin").read_bytes()
    (path / "tensors.bin").write_bytes(whole[:3000] + b"\xff" + whole[3001:])
    stages: list[str] = []
    reference_artifact(checkpoint, directory=tmp_path, progress=lambda stage, *_: stages.append(stage))
    assert (path / "tensors.bin").read_bytes() == whole
    assert "damaged" in stages[0]


def test_a_copy_damaged_beyond_recognition_is_replaced_too(checkpoint: Path, tmp_path: Path) -> None:
    path = reference_artifact(checkpoint, directory=tmp_path)
    whole = (path / "manifest.json").read_bytes()
    (path / "manifest.json").write_bytes(whole[:1000])
    assert reference_artifact(checkpoint, directory=tmp_path) == path
    assert (path / "manifest.json").read_bytes() == whole


def test_another_tokenizer_is_another_reference(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another-name"
    shutil.copytree(checkpoint, copy)
    first = reference_artifact(copy, directory=tmp_path / "cache")
    assert first == reference_artifact(checkpoint, directory=tmp_path / "cache")
    published = Checkpoint(checkpoint, "owner/letters", "0123abc")
    assert reference_artifact(published, directory=tmp_path / "cache") != first
    (copy / "tokenizer_config.json").write_text("{}")
    assert reference_artifact(copy, directory=tmp_path / "cache") != first
