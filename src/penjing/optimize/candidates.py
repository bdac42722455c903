"""The recipes that a search chooses among: a small table of formats and group sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penjing.artifact import ModelConfig
from penjing.measure.cost import artifact_bytes
from penjing.spec import FloatFormat, GroupSize, Recipe, WeightFormatName, preset, validate

TABLE: tuple[tuple[WeightFormatName, GroupSize], ...] = (
    ("int4", 128),
    ("int4", 64),
    ("int4", 32),
    ("int8", 128),
    ("int8", 64),
    ("int8", 32),
    ("layered", 128),
    ("layered", 64),
    ("layered", 32),
)


@dataclass(frozen=True)
class Candidate:
    """A recipe by name, and the bytes of the tensor files that it will write."""

    name: str
    recipe: Recipe
    tensor_bytes: int


def seeded_recipes(seed: int) -> dict[str, Recipe]:
    """Every recipe of the table, by the candidate's name. Raises SpecError for a seed out of range."""
    return {
        f"{format_name}/{group_size}": validate(
            Recipe, preset(format_name, group_size).model_dump() | {"seed": seed}, "optimize"
        )
        for format_name, group_size in TABLE
    }


def candidates(
    config: ModelConfig, recipes: dict[str, Recipe], own: Mapping[str, FloatFormat]
) -> list[Candidate]:
    """These recipes for a model of this shape, smallest first.

    own: the checkpoint's format of each matrix. Sizes follow from shapes and formats alone, so that a recipe
    that cannot fit is never run.
    """
    found = []
    for name, recipe in recipes.items():
        step = recipe.quantizing
        found.append(Candidate(name, recipe, artifact_bytes(config, step.weights, step.embedding, own)))
    return sorted(found, key=lambda candidate: candidate.tensor_bytes)
