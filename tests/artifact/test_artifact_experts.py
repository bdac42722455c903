"""Blocks of experts: what their configuration may say, and what an artifact of them must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_samples import CONFIG, edit_manifest, provenance
from pydantic import ValidationError

from penjing.artifact import Artifact, ArtifactWriter, BlockConfig, ModelConfig, expected_tensors
from penjing.errors import ManifestError, MissingTensorError
from penjing.formats import encode
from penjing.spec import WeightFormat

EXPERTS = {"feed_forward": "experts", "num_experts": 3, "experts_per_token": 2, "intermediate_size": 20}
MIXED = CONFIG.model_copy(
    update={"blocks": (CONFIG.blocks[0].model_copy(update=EXPERTS), CONFIG.blocks[1]), "post_norms": True}
)


def write(path: Path, config: ModelConfig, router: WeightFormat) -> Path:
    generator, int4 = np.random.default_rng(0), WeightFormat(name="int4", group_size=32)
    with ArtifactWriter(path, config) as writer:
        for name, role in expected_tensors(config).items():
            tensor = generator.standard_normal(role.shape, np.float32)
            if role.is_matrix:
                writer.add_matrix(name, encode(tensor, router if role.keeps_dtype else int4, "range", name))
            else:
                writer.add_vector(name, tensor)
        writer.finish(provenance())
    return path


def test_tensors_stand_in_the_order_of_execution() -> None:
    names = [name.removeprefix("blocks.0.") for name in expected_tensors(MIXED) if "blocks.0." in name]
    assert names[-13:] == [
        "post_attention_norm",
        "feed_forward_norm",
        "router",
        *(f"experts.{expert}.{name}" for expert in range(3) for name in ("gate", "up", "down")),
        "post_feed_forward_norm",
    ]
    roles = expected_tensors(MIXED)
    assert roles["blocks.0.router"].shape == (3, 36)
    assert roles["blocks.0.experts.2.down"].shape == (36, 20)
    assert [name for name, role in roles.items() if role.keeps_dtype] == ["blocks.0.router"]


def test_a_router_keeps_its_dtype(tmp_path: Path) -> None:
    kept = Artifact.open(write(tmp_path / "kept", MIXED, WeightFormat(name="keep")))
    assert kept.matrix("blocks.0.router").format == "fp32"
    quantized = write(tmp_path / "quantized", MIXED, WeightFormat(name="int8", group_size=32))
    with pytest.raises(ManifestError, match=r"blocks\.0\.router cannot be int8"):
        Artifact.open(quantized)


def test_experts_that_are_not_there(tmp_path: Path) -> None:
    """Refused at once, however many are claimed."""
    path = write(tmp_path / "tray", MIXED, WeightFormat(name="keep"))
    for number, missing in ((4, r"blocks\.0\.experts\.3\.gate"), (10**15, "1000000000000000 experts")):
        edit_manifest(
            path, lambda data, n=number: data["config"]["blocks"][0].update(num_experts=n), reseal=True
        )
        with pytest.raises(MissingTensorError, match=missing):
            Artifact.open(path)


@pytest.mark.parametrize(
    "change",
    [
        {"experts_per_token": 4},
        {"experts_per_token": 0},
        {"num_experts": 0},
        {"feed_forward": "dense"},
        {"feed_forward": "dense", "num_experts": 0, "experts_per_token": 0, "normalize_experts": True},
    ],
)
def test_numbers_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="expert"):
        BlockConfig.model_validate({"num_heads": 1, "num_kv_heads": 1, **EXPERTS, **change})
