"""Formats by name, and what cannot be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import QWEN3_MOE, write_checkpoint

from penjing.artifact import ModelConfig
from penjing.errors import SpecError
from penjing.models import Checkpoint
from penjing.quantize.assignment import assign_formats
from penjing.spec import Override, QuantizeStep, Recipe, WeightFormat, validate

INT2, INT8 = WeightFormat(name="int2"), WeightFormat(name="int8")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return Checkpoint.open(write_checkpoint(tmp_path_factory.mktemp("models") / "m", QWEN3_MOE)).config


def assign(config: ModelConfig, *overrides: Override) -> dict[str, WeightFormat]:
    return assign_formats(config, QuantizeStep(overrides=overrides))


def test_the_last_override_counts(config: ModelConfig) -> None:
    formats = assign(config, Override(match="blocks.*", weights=INT8), Override(match="*.down", weights=INT2))
    assert formats["blocks.2.experts.5.down"] == formats["blocks.1.down"] == INT2
    assert formats["blocks.0.query"] == INT8
    assert formats["blocks.0.router"].name == "keep"
    assert assign(config, Override(match="head", weights=INT2))["head"] == INT2
    assert assign(config)["blocks.0.query"] == WeightFormat()


@pytest.mark.parametrize("match", ["blocks.9.query", "*.router", "*_norm", "query"])
def test_a_pattern_that_matches_nothing(config: ModelConfig, match: str) -> None:
    with pytest.raises(SpecError, match="matches no matrix"):
        assign(config, Override(match=match, weights=INT8))


@pytest.mark.parametrize(
    ("match", "first", "second"),
    [
        ("blocks.1.key", r"blocks\.1\.query", r"blocks\.1\.key"),
        ("blocks.0.query", r"blocks\.0\.query", r"blocks\.0\.key"),
        ("*.experts.3.up", r"blocks\.0\.experts\.3\.gate", r"blocks\.0\.experts\.3\.up"),
    ],
)
def test_fused_matrices_have_one_format(config: ModelConfig, match: str, first: str, second: str) -> None:
    with pytest.raises(SpecError, match=f"{first} is .* and {second} int8/64"):
        assign(config, Override(match=match, weights=INT8)) if "query" not in match else assign(
            config, Override(match="blocks.0.[kv]*", weights=INT8)
        )


def test_calibration_belongs_to_methods_with_data() -> None:
    step = QuantizeStep(method="gptq")
    assert step.calibration is not None
    assert step.calibration.tokens == 32768
    assert QuantizeStep().calibration is None
    data = {"steps": [{"method": "range", "calibration": {"tokens": 5}}]}
    with pytest.raises(SpecError, match="range takes no calibration"):
        validate(Recipe, data, "recipe")


def test_a_recipe_file(tmp_path: Path) -> None:
    from penjing.spec import read_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(
        "steps:\n- method: qronos\n  weights: {name: int3, group_size: 64}\n  damping: 0.02\n"
        "  calibration: {tokens: 4096, self_written: 0}\n"
        "  overrides:\n  - {match: '*.down', weights: {name: int4}}\n"
    )
    (step,) = read_recipe(path).steps
    assert (step.method, step.damping, step.overrides[0].weights.name) == ("qronos", 0.02, "int4")
