"""Matrices of every format through an artifact and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_samples import CONFIG, edit_manifest, patch_bytes, provenance, random_tensor

from penjing.artifact import Artifact, ArtifactWriter, expected_tensors, verify_artifact
from penjing.errors import ArtifactError, ChecksumError, ManifestError, TensorShapeError
from penjing.formats import Encoded, encode
from penjing.formats.encoded import PLANE_BITS
from penjing.measure.cost import artifact_bytes
from penjing.spec import WITH_ZERO_POINTS, WeightFormat

CODED = [WeightFormat(name=name, group_size=32) for name in PLANE_BITS] + [
    WeightFormat(name=name, group_size=32, asymmetric=True) for name in WITH_ZERO_POINTS
]
PARTS = ("codes", "high", "scales", "zeros", "table", "residual")


def write(path: Path, format: WeightFormat) -> dict[str, Encoded]:
    """An artifact whose matrices all have this format; what was written."""
    generator = np.random.default_rng(0)
    written = {}
    with ArtifactWriter(path, CONFIG) as writer:
        for name, role in expected_tensors(CONFIG).items():
            tensor = random_tensor(role.shape, generator)
            if role.is_matrix:
                written[name] = encode(tensor, format, "range", name)
                writer.add_matrix(name, written[name])
            else:
                writer.add_vector(name, tensor)
        writer.finish(provenance())
    return written


@pytest.mark.parametrize("format", CODED, ids=lambda f: f.name + "+" * f.asymmetric)
def test_every_part_comes_back(tmp_path: Path, format: WeightFormat) -> None:
    written = write(tmp_path / "tray", format)
    artifact = verify_artifact(tmp_path / "tray")
    for name, meant in written.items():
        stored = artifact.matrix(name)
        assert (stored.format, stored.asymmetric) == (format.name, format.asymmetric)
        for part in PARTS:
            before, after = getattr(meant, part), getattr(stored, part)
            assert (before is None and after is None) or (
                before.dtype == after.dtype and before.tobytes() == after.tobytes()
            )
    assert artifact.tensor_bytes == artifact_bytes(CONFIG, format, format)


@pytest.mark.parametrize("part", ["codes", "high", "scales", "zeros", "table"])
def test_damage_to_any_part_is_found(tmp_path: Path, part: str) -> None:
    format = WeightFormat(name="table4") if part == "table" else WeightFormat(name="int5", asymmetric=True)
    write(tmp_path / "tray", format)
    entry = Artifact.open(tmp_path / "tray").manifest.tensors["blocks.1.up"].parts[part]  # type: ignore[index]
    patch_bytes(tmp_path / "tray" / "tensors.bin", entry.offset + 3, b"\x55")
    with pytest.raises(ChecksumError, match=rf"{part} of blocks\.1\.up do not match"):
        Artifact.open(tmp_path / "tray")


def test_parts_that_do_not_belong_to_a_format_are_refused(tmp_path: Path) -> None:
    def refused(format: WeightFormat, edit: Any, error: type[ArtifactError], message: str) -> None:
        path = tmp_path / f"{format.name}{len(list(tmp_path.iterdir()))}"
        write(path, format)
        edit_manifest(path, lambda data: edit(data["tensors"]["blocks.0.up"]), reseal=True)
        with pytest.raises(error, match=message):
            Artifact.open(path)

    asymmetric = WeightFormat(name="int5", asymmetric=True)
    message = "up cannot be nf4 with zero points"
    refused(asymmetric, lambda entry: entry.update(format="nf4"), ManifestError, message)
    refused(asymmetric, lambda entry: entry["parts"].pop("high"), TensorShapeError, "parts of blocks.0.up")
    refused(asymmetric, lambda entry: entry.update(format="int4"), TensorShapeError, "parts of blocks.0.up")
    table = WeightFormat(name="table4")
    refused(table, lambda entry: entry["parts"].pop("table"), TensorShapeError, "parts of blocks.0.up")


@pytest.mark.parametrize("part", ["high", "scales", "zeros"])
def test_padding_that_is_not_neutral_is_refused(tmp_path: Path, part: str) -> None:
    class Spoilt(ArtifactWriter):
        def add_matrix(self, name: str, encoded: Encoded) -> None:
            getattr(encoded, part).reshape(-1)[-1] ^= 1  # of the last row of a tile
            super().add_matrix(name, encoded)

    generator = np.random.default_rng(0)
    format = WeightFormat(name="int6", group_size=32, asymmetric=True)
    with Spoilt(tmp_path / "tray", CONFIG) as writer:
        for name, role in expected_tensors(CONFIG).items():
            tensor = random_tensor(role.shape, generator)
            if role.is_matrix:
                writer.add_matrix(name, encode(tensor, format, "range", name))
            else:
                writer.add_vector(name, tensor)
        writer.finish(provenance())
    with pytest.raises(ChecksumError, match=r"padding of .* is not neutral"):
        verify_artifact(tmp_path / "tray")
