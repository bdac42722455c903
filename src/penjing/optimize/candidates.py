"""What a search builds: an assignment of formats as a recipe, by a name that a person can read."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from penjing.artifact import ModelConfig
from penjing.artifact.config import expected_tensors
from penjing.optimize.choices import overrides_of
from penjing.optimize.solver import Assignment
from penjing.spec import Kv, MethodName, QuantizeStep, Recipe, WeightFormat, canonical_json

EMBEDDED = ("embedding", "head")


@dataclass(frozen=True)
class Candidate:
    """An assignment, the recipe that makes it, and what it will cost.

    name: its bits per weight. key: a hash of the recipe.
    """

    name: str
    key: str
    assignment: Assignment
    recipe: Recipe


def candidate_of(
    assignment: Assignment, config: ModelConfig, method: MethodName, kv: Kv, seed: int
) -> Candidate:
    """The candidate of an assignment for a model of this shape."""
    recipe = Recipe(steps=(step_of(assignment.formats, method, kv),), seed=seed)
    key = hashlib.sha256(canonical_json(recipe).encode()).hexdigest()[:16]
    return Candidate(f"{bits_per_weight(assignment, config):.2f} bits", key, assignment, recipe)


def step_of(formats: Mapping[str, WeightFormat], method: MethodName, kv: Kv) -> QuantizeStep:
    """The step that gives groups, by name, their formats; the most frequent is the rule, others override."""
    inner = Counter(format for group, format in formats.items() if group not in EMBEDDED)
    weights = inner.most_common(1)[0][0]
    embedding = formats["embedding"]
    rules = {group: embedding if group in EMBEDDED else weights for group in formats}
    others = [(group, format) for group, format in formats.items() if format != rules[group]]
    return QuantizeStep(
        weights=weights, embedding=embedding, overrides=overrides_of(others), method=method, kv=kv
    )


def bits_per_weight(assignment: Assignment, config: ModelConfig) -> float:
    """Stored bits of all groups over their elements, scales and padding included."""
    roles = expected_tensors(config)
    elements = sum(math.prod(roles[name].shape) for group in assignment.groups for name in group.matrices)
    return 8 * sum(choice.nbytes for choice in assignment.chosen) / elements
