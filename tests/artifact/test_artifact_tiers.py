"""Vectors whose values differ by tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_samples import CONFIG, edit_manifest, patch_bytes, write_artifact

from penjing.artifact import Artifact, expected_tensors, verify_artifact
from penjing.errors import (
    ChecksumError,
    FormatError,
    ManifestError,
    NonFiniteScaleError,
    NonFiniteWeightError,
    TensorShapeError,
    UnsupportedConfigError,
)
from penjing.export import export_safetensors
from penjing.models import Checkpoint
from penjing.spec import TIERS

TUNED = "blocks.1.key_bias"


def tune(name: str, vector: Any) -> Any:
    return vector + 1 if name == TUNED else vector.copy()


def test_each_tier_reads_its_own(tmp_path: Path) -> None:
    tuned = verify_artifact(write_artifact(tmp_path / "tuned", "layered", best=tune))
    plain = Artifact.open(write_artifact(tmp_path / "plain", "layered"))
    for name, role in expected_tensors(CONFIG).items():
        if not role.is_matrix:
            before = plain.vector(name)
            assert np.array_equal(tuned.vector(name, "fast"), before)
            assert np.array_equal(tuned.vector(name, "best"), before + 1 if name == TUNED else before)
            assert set(tuned.entry(name).parts) == ({"data", "best"} if name == TUNED else {"data"})
    assert tuned.entry(TUNED).parts["best"].file == "residual.bin"
    assert tuned.tier_bytes("fast") == plain.tier_bytes("fast")
    assert tuned.hash != plain.hash


def test_the_fast_tier_is_still_the_4_bit_artifact(tmp_path: Path) -> None:
    tuned = write_artifact(tmp_path / "tuned", "layered", best=tune)
    int4 = write_artifact(tmp_path / "int4", "int4")
    assert (tuned / "tensors.bin").read_bytes() == (int4 / "tensors.bin").read_bytes()


def test_who_reads_one_value_for_all_tiers_is_refused(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tuned", "layered", best=tune)
    with pytest.raises(UnsupportedConfigError, match=r"blocks\.1\.key_bias differs between the tiers"):
        Artifact.open(path).vector(TUNED)


def test_an_export_is_of_one_tier(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"blocks": CONFIG.blocks[:1] * 2, "qkv_bias": False})
    path = write_artifact(
        tmp_path / "tuned", "layered", config=config, best=lambda _, vector: vector * np.float32(2)
    )
    fast, best = (
        Checkpoint.open(export_safetensors(path, tmp_path / tier, dtype="fp32", tier=tier).path)
        for tier in TIERS
    )
    for name in ("blocks.1.attention_norm", "final_norm"):
        assert np.array_equal(best.read(name), 2 * fast.read(name))


def test_only_where_there_are_tiers(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"key_bias differs by tier, and no matrix is layered"):
        write_artifact(tmp_path / "tuned", "int4", best=tune)
    assert not list(tmp_path.iterdir())
    path = write_artifact(tmp_path / "layered", "layered", best=tune)

    def flatten(manifest: dict[str, Any]) -> None:
        for entry in manifest["tensors"].values():
            if entry["parts"].pop("residual", None):
                entry["format"] = "int4"

    edit_manifest(path, flatten, reseal=True)
    with pytest.raises(ManifestError, match="no matrix is layered"):
        Artifact.open(path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda vector: vector.astype(np.float64) + 1, FormatError),
        (lambda vector: vector[:-1], TensorShapeError),
        (lambda vector: vector * np.float32("inf"), NonFiniteWeightError),
    ],
)
def test_what_cannot_be_stored(tmp_path: Path, change: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"blocks\.1\.key_bias"):
        write_artifact(
            tmp_path / "x", "layered", best=lambda name, vector: change(vector) if name == TUNED else None
        )
    assert not list(tmp_path.iterdir())


def test_damage_is_found(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tuned", "layered", best=tune)
    offset = Artifact.open(path).entry(TUNED).parts["best"].offset
    patch_bytes(path / "residual.bin", offset, np.float32(7).tobytes())
    with pytest.raises(ChecksumError, match=r"best of blocks\.1\.key_bias"):
        Artifact.open(path)
    patch_bytes(path / "residual.bin", offset, np.float32("nan").tobytes())
    with pytest.raises(NonFiniteScaleError, match=r"blocks\.1\.key_bias"):
        Artifact.open(path, verify="none")
    edit_manifest(path, lambda data: data["tensors"][TUNED]["parts"]["best"].update(nbytes=4), reseal=True)
    with pytest.raises(TensorShapeError, match=r"blocks\.1\.key_bias"):
        Artifact.open(path)
