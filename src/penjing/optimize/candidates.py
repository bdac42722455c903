"""The recipes that a search chooses among: a small table of formats and group sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penjing.artifact import ModelConfig
from penjing.measure.cost import artifact_bytes
from penjing.spec import Recipe, WeightFormatName, preset

GroupSize = Literal[32, 64, 128]
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


def candidates(config: ModelConfig, seed: int) -> list[Candidate]:
    """Every recipe of the table for a model of this shape, smallest first.

    Sizes follow from shapes and formats alone, so that a recipe that cannot fit is never run.
    """
    found = []
    for format_name, group_size in TABLE:
        recipe = preset(format_name, group_size).model_copy(update={"seed": seed})
        step = recipe.steps[0]
        size = artifact_bytes(config, step.weights, step.embedding)
        found.append(Candidate(f"{format_name}/{group_size}", recipe, size))
    return sorted(found, key=lambda candidate: candidate.tensor_bytes)
