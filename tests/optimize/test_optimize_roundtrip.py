"""The gate between writing and publishing: what the engine reads is what the quantizer meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import pytest
from checkpoints import GEMMA3, PHI3, QWEN3_MOE, random_tensors, write_checkpoint

from penjing.artifact import Artifact
from penjing.errors import ArtifactError
from penjing.formats import Encoded
from penjing.formats.encoded import PLANE_BITS
from penjing.measure.cost import artifact_bytes
from penjing.models import Checkpoint
from penjing.optimize.roundtrip import check_round_trip
from penjing.quantize import quantize_checkpoint
from penjing.spec import WITH_ZERO_POINTS, preset


@pytest.mark.parametrize("name", ["keep", *PLANE_BITS, *(f"{name}+" for name in WITH_ZERO_POINTS)])
@pytest.mark.parametrize("group_size", [32, 128])
def test_every_format_passes(checkpoint: Path, tmp_path: Path, name: str, group_size: int) -> None:
    recipe = preset(name.rstrip("+"), group_size, name.endswith("+"))  # type: ignore[arg-type]
    artifact = quantize_checkpoint(checkpoint, tmp_path / "artifact", recipe)
    steps: list[int] = []
    check_round_trip(
        artifact,
        Checkpoint.open(checkpoint),
        recipe.steps[0],
        lambda _, done, total: steps.append(total - done),
    )
    assert steps[-1] == 0


@pytest.mark.parametrize("config", [GEMMA3, PHI3, QWEN3_MOE], ids=lambda config: config["model_type"])
@pytest.mark.parametrize("name", ["int4", "layered"])
def test_every_family_passes_with_the_size_that_was_predicted(
    tmp_path: Path, config: dict[str, Any], name: str
) -> None:
    model = Checkpoint.open(write_checkpoint(tmp_path / "model", config, dtype=ml_dtypes.bfloat16))
    recipe = preset(name)  # type: ignore[arg-type]
    artifact = quantize_checkpoint(model, tmp_path / "artifact", recipe)
    check_round_trip(artifact, model, recipe.steps[0])
    step = recipe.quantizing
    predicted = artifact_bytes(model.config, step.weights, step.embedding, model.formats)
    assert predicted == artifact.tensor_bytes


def test_weights_of_another_model_fail(checkpoint: Path, int8: Artifact, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    other = write_checkpoint(tmp_path / "other", config, tensors=random_tensors(config, seed=9))
    with pytest.raises(ArtifactError, match="embedding does not read back"):
        check_round_trip(int8, Checkpoint.open(other), preset("int8").steps[0])


@pytest.mark.parametrize("plane", ["codes", "scales", "residual"])
def test_one_wrong_tile_is_found(
    checkpoint: Path, layered: Artifact, plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writer that misplaces a plane would leave it."""
    read = Artifact.matrix

    def misplaced(self: Artifact, name: str) -> Encoded:
        matrix = read(self, name)
        if name != "blocks.1.up":
            return matrix
        wrong = getattr(matrix, plane)
        return replace(matrix, **{plane: wrong[::-1].copy()})

    monkeypatch.setattr(Artifact, "matrix", misplaced)
    with pytest.raises(ArtifactError, match=r"blocks\.1\.up does not read back"):
        check_round_trip(layered, Checkpoint.open(checkpoint), preset("layered").steps[0])
