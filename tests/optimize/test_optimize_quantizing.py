"""From a checkpoint to an artifact with data: calibration text, and the gate behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import GEMMA3, QWEN3_MOE, write_checkpoint

from penjing.artifact import Artifact
from penjing.errors import ArtifactError, EmptyDataError, SpecError
from penjing.formats import Encoded
from penjing.models import Checkpoint
from penjing.models.embedded import SEEDLING
from penjing.optimize import gate
from penjing.optimize.quantizing import calibration_tokens, possible, quantize
from penjing.optimize.self_written import self_written
from penjing.spec import Calibration, QuantizeStep, Recipe, WeightFormat, preset

pytestmark = pytest.mark.usefixtures("one_thread")

CALIBRATION = Calibration(tokens=256, sequence_tokens=32)


def recipe(format: Any = "int4", method: Any = "gptq", group_size: Any = 32) -> Recipe:
    step = QuantizeStep(
        weights=WeightFormat(name=format, group_size=group_size),
        embedding=WeightFormat(name="int8", group_size=32),
        method=method,
        calibration=CALIBRATION,
        tuning_steps=3 if method == "auto" else None,
    )
    return Recipe(steps=(step,))


def test_the_same_twice(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    one = quantize(checkpoint, tmp_path / "a", recipe("layered", "auto"), threads=1, say=said.append)
    two = quantize(checkpoint, tmp_path / "b", recipe("layered", "auto"), threads=1, max_ram_bytes=1)
    assert one.hash == two.hash
    assert "8 sequences of 32 tokens: about" in said[0]
    assert one.manifest.provenance.recipe.steps[0].calibration == CALIBRATION
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_tuned_together(checkpoint: Path, tmp_path: Path) -> None:
    """Tuning is kept if it lowers the loss, norms included; the base plane of `layered` is `int4` tuned."""
    step = recipe("int4", "auto").steps[0].model_copy(update={"tuning_steps": 30})
    said: list[str] = []
    plain = quantize(checkpoint, tmp_path / "a", Recipe(steps=(step,)), threads=1, say=said.append)
    before, after = (float(part) for part in said[-1].split("apart ")[1].split(", then "))
    assert after < before
    norms = Artifact.open(plain.path).vector("blocks.0.attention_norm")
    assert not np.array_equal(norms, Checkpoint.open(checkpoint).read("blocks.0.attention_norm"))
    update = {"weights": WeightFormat(name="layered", group_size=32)}
    layered = quantize(checkpoint, tmp_path / "b", Recipe(steps=(step.model_copy(update=update),)), threads=1)
    assert (plain.path / "tensors.bin").read_bytes() == (layered.path / "tensors.bin").read_bytes()
    best = layered.vector("blocks.0.attention_norm", "best")
    assert np.array_equal(best, Checkpoint.open(checkpoint).read("blocks.0.attention_norm"))


@pytest.mark.parametrize("config", [GEMMA3, QWEN3_MOE], ids=lambda config: config["model_type"])
def test_families_without_a_tokenizer_write_their_own_text(tmp_path: Path, config: dict[str, Any]) -> None:
    source, said = write_checkpoint(tmp_path / "m", config), []
    artifact = quantize(source, tmp_path / "tray", recipe(), threads=1, say=said.append)
    assert "no tokenizer" in said[0]
    calibration = artifact.manifest.provenance.recipe.steps[0].calibration
    assert calibration is not None
    assert calibration.self_written == 1.0


def test_text_that_is_given(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    given = quantize(checkpoint, tmp_path / "a", recipe(), [own_text])
    calibration = given.manifest.provenance.recipe.steps[0].calibration
    assert calibration is not None
    assert calibration.self_written == 0.0
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(EmptyDataError, match=r"short\.txt: too little text for 32 tokens"):
        quantize(checkpoint, tmp_path / "b", recipe(), [tmp_path / "short.txt"])
    for options in ({"data": [own_text]}, {"resume": True}, {"max_ram_bytes": 5}):
        with pytest.raises(SpecError, match="weights alone"):
            quantize(checkpoint, tmp_path / "c", preset("int4"), **options)  # type: ignore[arg-type]


def test_a_model_that_memory_does_not_hold(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penjing.optimize.quantizing.usable_memory_bytes", lambda: 1)
    said: list[str] = []
    found = possible(CALIBRATION, Checkpoint.open(checkpoint), has_data=False, say=said.append)
    assert (found.self_written, len(said)) == (0.0, 1)


def test_what_a_model_writes(checkpoint: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    one = self_written(opened, 4, 24, seed=1, threads=1)
    assert one.shape == (4, 24)
    assert set(one[:, 0]) == {1}
    assert len(np.unique(one, axis=0)) == 4
    assert not np.array_equal(one, self_written(opened, 4, 24, seed=2, threads=1))
    assert self_written(opened, 1100, 2, seed=1, threads=1).shape == (1100, 2)  # more than a service queues


def test_built_in_and_own_text_take_turns() -> None:
    half = Calibration(tokens=512, sequence_tokens=64)
    tokens = calibration_tokens(
        Checkpoint.open(SEEDLING), half, (), seed=0, threads=1, progress=lambda *_: None
    )
    assert tokens.shape == (8, 64)
    own = self_written(Checkpoint.open(SEEDLING), 4, 64, seed=0)
    assert np.array_equal(tokens[1::2], own) or np.array_equal(tokens[0::2], own)


def misplaced(read: Any, name: str, part: str) -> Any:
    """An artifact's `matrix` as a writer that misplaces a plane would leave it."""

    def matrix(self: Artifact, wanted: str) -> Encoded:
        encoded = read(self, wanted)
        if wanted != name:
            return encoded
        return replace(encoded, **{part: getattr(encoded, part)[::-1].copy()})

    return matrix


@pytest.mark.parametrize("name", ["blocks.1.up", "embedding", "head"])
def test_one_wrong_plane_is_found(
    checkpoint: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Artifact, "matrix", misplaced(Artifact.matrix, name, "codes"))
    with pytest.raises(ArtifactError, match=f"{name} does not read back"):
        quantize(checkpoint, tmp_path / "tray", recipe("layered"), threads=1)
    assert not (tmp_path / "tray").exists()
    assert (tmp_path / "tray.work").is_dir()


@pytest.mark.parametrize(
    "setting", [{"norm_eps": 3.0}, {"attention_scalar": 0.5}, {"activation": "gelu_tanh"}]
)
def test_a_wrong_computation_is_found_by_its_logits(
    checkpoint: Path, tmp_path: Path, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor is right, and the engine is told to compute another model."""
    original = gate.WithExactCache.__init__

    def altered(self: gate.WithExactCache, artifact: Artifact) -> None:
        original(self, artifact)
        self.config = self.config.model_copy(update=setting)

    monkeypatch.setattr(gate.WithExactCache, "__init__", altered)
    with pytest.raises(ArtifactError, match=r"logits at tier fast differ"):
        quantize(checkpoint, tmp_path / "tray", recipe("layered"), threads=1)


def test_how_far_correct_logits_may_be(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound leaves room, and not much more than it needs."""
    errors: list[float] = []
    measure = gate.relative_error

    def remember(found: torch.Tensor, meant: torch.Tensor) -> float:
        errors.append(measure(found, meant))
        return errors[-1]

    monkeypatch.setattr(gate, "relative_error", remember)
    for format in ("int3", "int8", "layered", "table2", "table4", "fp8", "mxfp4"):
        quantize(checkpoint, tmp_path / format, recipe(format), threads=1)
    assert len(errors) == 8
    assert max(errors) < gate.MOST_RELATIVE_ERROR / 3, errors
