"""What a search builds: an assignment of formats as a recipe, by a name that a person can read."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penjing.artifact import ModelConfig
from penjing.artifact.config import expected_tensors
from penjing.models import Checkpoint
from penjing.optimize.choices import overrides_of
from penjing.optimize.solver import Assignment
from penjing.quantize.walk import Origin
from penjing.spec import (
    Kv,
    MethodName,
    PruneStep,
    QuantizeStep,
    Recipe,
    ShapingStep,
    WeightFormat,
    canonical_json,
)

EMBEDDED = ("embedding", "head")
# Below so many bits a weight, tuning the whole model is worth its time: at 3.7 it took three quarters of a
# candidate's, and left 0.96 of the KL.
TUNED_BELOW = 3.0


@dataclass(frozen=True)
class Candidate:
    """An assignment, the recipe that makes it, and what it will cost.

    name: its bits per weight, and what it lacks. key: a hash of the recipe. checkpoint: what is quantized;
    origin: what that was made of, None if it is the model as it came.
    """

    name: str
    key: str
    assignment: Assignment
    recipe: Recipe
    checkpoint: Checkpoint
    origin: Origin | None


def candidate_of(
    assignment: Assignment,
    checkpoint: Checkpoint,
    shaping: Sequence[ShapingStep],
    origin: Origin | None,
    *,
    kv: Kv,
    method: MethodName,
    seed: int,
) -> Candidate:
    """The candidate of an assignment for a checkpoint that some steps have made of its origin."""
    bits = bits_per_weight(assignment, checkpoint.config)
    step = step_of(assignment.formats, method, kv)
    if bits >= TUNED_BELOW:
        step = step.model_copy(update={"tuning_steps": 0})
    recipe = Recipe(steps=(*shaping, step), seed=seed)
    key = hashlib.sha256(canonical_json(recipe).encode()).hexdigest()[:16]
    removed = [f"{step.fraction:.0%} pruned, " for step in shaping if isinstance(step, PruneStep)]
    return Candidate("".join(removed) + f"{bits:.2f} bits", key, assignment, recipe, checkpoint, origin)


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
