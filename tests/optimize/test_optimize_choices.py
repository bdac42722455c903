"""Groups and their sizes against what an artifact holds."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.models import SEEDLING, Checkpoint
from penjing.models.shapes import find_shape
from penjing.optimize.choices import (
    OFFERED,
    block_of,
    fixed_bytes,
    groups_of,
    groups_with_choices,
    overrides_of,
    patterns_of,
)
from penjing.quantize.assignment import KEEP, assign_formats, label
from penjing.quantize.walk import quantize_checkpoint
from penjing.spec import QuantizeStep, Recipe, WeightFormat

INT4, INT8 = WeightFormat(name="int4"), WeightFormat(name="int8", group_size=32)


def experts_config() -> ModelConfig:
    """Two blocks, the second of four experts."""
    config = find_shape("tiny")
    experts = config.blocks[1].model_copy(
        update={"feed_forward": "experts", "num_experts": 4, "experts_per_token": 2}
    )
    return config.model_copy(update={"blocks": (config.blocks[0], experts), "tied_head": False})


def test_groups_hold_every_matrix_that_has_a_format_once() -> None:
    config = experts_config()
    groups = dict(groups_of(config))
    assert list(groups) == [
        "embedding",
        "blocks.0.query+key+value",
        "blocks.0.output",
        "blocks.0.gate+up",
        "blocks.0.down",
        "blocks.1.query+key+value",
        "blocks.1.output",
        "blocks.1.experts.gate+up",
        "blocks.1.experts.down",
        "head",
    ]
    assert groups["blocks.1.experts.down"] == tuple(f"blocks.1.experts.{index}.down" for index in range(4))
    every = [name for matrices in groups.values() for name in matrices]
    roles = expected_tensors(config)
    assert sorted(every) == sorted(n for n, r in roles.items() if r.is_matrix and not r.keeps_dtype)
    assert [block_of(name) for name in groups] == [None, 0, 0, 0, 0, 1, 1, 1, 1, None]


def test_overrides_give_each_group_its_format_and_no_other() -> None:
    config = experts_config()
    names = [name for name, _ in groups_of(config)]
    chosen = {name: OFFERED[place % len(OFFERED)] for place, name in enumerate(names)}
    formats = assign_formats(config, QuantizeStep(overrides=overrides_of(chosen.items())))
    for name, matrices in groups_of(config):
        assert {formats[matrix] for matrix in matrices} == {chosen[name]}
    assert formats["blocks.1.router"] == KEEP
    assert patterns_of("blocks.1.experts.gate+up") == ("blocks.1.experts.*.gate", "blocks.1.experts.*.up")


def test_bytes_are_those_of_the_artifact(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(str(SEEDLING))
    config, own = checkpoint.config, checkpoint.formats
    mixed = {name: INT8 if place % 3 else INT4 for place, (name, _) in enumerate(groups_of(config))}
    mixed["blocks.2.down"] = KEEP
    step = QuantizeStep(overrides=overrides_of(mixed.items()), method="range")
    artifact = quantize_checkpoint(checkpoint, tmp_path / "tray", Recipe(steps=(step,)))
    losses = {name: {label(INT8): 0.0, label(INT4): 0.0} for name in mixed}
    groups = groups_with_choices(config, losses, (INT4, INT8, KEEP), own=own)
    sizes = [
        choice.nbytes for group in groups for choice in group.choices if choice.format == mixed[group.name]
    ]
    assert artifact.tensor_bytes == fixed_bytes(config, own) + sum(sizes)


def test_choices_have_their_sizes_times_and_losses() -> None:
    config = find_shape("tiny")
    losses = {name: {label(INT4): 0.5} for name, _ in groups_of(config)}
    groups = groups_with_choices(
        config, losses, (INT4, INT8, KEEP), seconds=lambda name, format: len(name) + format.group_size
    )
    assert [choice.format for choice in groups[1].choices] == [INT4, KEEP]  # INT8 has no prediction
    assert [choice.loss for choice in groups[1].choices] == [0.5, 0.0]
    assert groups[1].choices[0].seconds == len(groups[1].name) + 64
