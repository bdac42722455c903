"""The forms of a model whose formats a search chooses: as it came, and with fewer feed-forward channels.

Removing channels costs more than rounding does, and gives what rounding cannot: fewer multiplications, and
sizes below two bits a weight. So it is tried where formats alone cannot keep the other limits, whatever they
lose, and where there is time to train what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from penjing.errors import SpecError, UnsupportedConfigError
from penjing.models import Checkpoint
from penjing.optimize.candidates import Candidate, candidate_of
from penjing.optimize.choices import OFFERED, Group
from penjing.optimize.costing import KV_LOSS, Costs
from penjing.optimize.quantizing import calibration_tokens, possible
from penjing.optimize.reference import cache_directory
from penjing.optimize.sensitivity import Sensitivity, sensitivity
from penjing.optimize.solver import Assignment, Limits, solve
from penjing.optimize.trials import Trials
from penjing.optimize.weight_losses import weight_losses
from penjing.quantize.walk import Origin
from penjing.spec import Calibration, DistillStep, Kv, MethodName, PruneStep, ShapingStep

if TYPE_CHECKING:  # loads torch
    from penjing.optimize.shaping import Shaped

CALIBRATION = Calibration(tokens=8192, sequence_tokens=256)
FRACTIONS = (0.25, 0.5)  # of the blocks' parameters that may go
LEFT = 0.3  # of what their removal loses, after training: a guess of what to train, which is then measured


@dataclass(frozen=True, eq=False)
class Shape:
    """One form of the model, and what its groups of matrices cost in every format.

    steps: of a recipe that make it, and texts what they read. loss: nats a token that it loses before any
    rounding.
    """

    checkpoint: Checkpoint
    costs: Costs
    groups: tuple[Group, ...]
    steps: tuple[ShapingStep, ...] = ()
    texts: tuple[str, ...] = ()
    loss: float = 0.0

    def candidate(self, assignment: Assignment, kv: Kv, method: MethodName, seed: int) -> Candidate:
        """The candidate of an assignment of formats."""
        origin = Origin(self.costs.original, self.texts) if self.steps else None
        return candidate_of(assignment, self.checkpoint, self.steps, origin, kv=kv, method=method, seed=seed)


def without_channels(trials: Trials, shape: Shape, fraction: float) -> Shape | None:
    """A shape with so much less in its blocks, not trained; None, and a line why, where that cannot be.

    Its loss is that on text held apart, and its formats are taken to lose as much as before.
    """
    if find_spec("torch") is None:
        trials.say("torch is not installed: fewer parameters are not tried")
        return None
    from penjing.optimize.pruning import prune

    step = PruneStep(fraction=fraction, axes=("channels",), importance="gradient")
    out = trials.directory / f"{fraction:.0%}-fewer"
    settings = trials.settings

    def make() -> Shaped:
        trials.say(f"removing {fraction:.0%} of the blocks' parameters")
        return prune(
            shape.checkpoint.path,
            out,
            step,
            trials.learn_from,
            seed=settings.seed,
            force=True,
            threads=settings.threads,
            say=trials.say,
            progress=trials.progress,
        )

    try:
        shaped = remembered(out, make)
    except (SpecError, UnsupportedConfigError) as error:
        trials.say(f"{fraction:.0%} fewer parameters are not tried: {error}")
        return None
    return reshaped(shape, out, step, shaped)


def trained(trials: Trials, shape: Shape, minutes: float) -> Shape:
    """A shape after it has learned from the model as it came, for so long."""
    from penjing.optimize.distilling import distill

    out = shape.checkpoint.path.with_name(f"{shape.checkpoint.path.name}-trained")
    settings = trials.settings

    def make() -> Shaped:
        trials.say(f"training what is left, for {minutes:g} minutes")
        return distill(
            shape.checkpoint.path,
            trials.checkpoint.path,
            out,
            DistillStep(minutes=minutes),
            trials.learn_from,
            state=out.with_name(f"{out.name}-state"),
            seed=settings.seed,
            force=True,
            threads=settings.threads,
            say=trials.say,
            progress=trials.progress,
        )

    shaped = remembered(out, make)
    return reshaped(shape, out, DistillStep(steps=shaped.steps), shaped)


def remembered(out: Path, make: Callable[[], Shaped]) -> Shaped:
    """What was said of a checkpoint when it was made, now or before."""
    from penjing.optimize.shaping import Shaped

    record = out.with_name(f"{out.name}.json")
    if not record.exists():
        shaped = make()
        record.write_text(shaped.model_dump_json(), "utf-8")
    return Shaped.model_validate_json(record.read_bytes())


def reshaped(shape: Shape, path: Path, step: ShapingStep, shaped: Shaped) -> Shape:
    """A shape after one more step."""
    checkpoint = Checkpoint.open(path)
    costs = replace(shape.costs, checkpoint=checkpoint)
    return Shape(
        checkpoint,
        costs,
        costs.groups(),
        (*shape.steps, step),
        (*shape.texts, shaped.text),
        shape.loss + shaped.after.loss - shaped.before.loss,
    )


def settled(trials: Trials, shape: Shape) -> Shape:
    """A shape with its own prices, and its loss as served on the text to choose by."""
    losses = scores(trials, shape.checkpoint)
    costs = replace(shape.costs, losses=losses)
    groups = costs.groups()
    kept = solve(groups, Limits(), "loss")  # every matrix in its own dtype
    alone = trials.measure(shape.candidate(kept, KV_LOSS[0][0], "search", trials.settings.seed))
    return replace(shape, costs=costs, groups=groups, loss=alone.mean_delta_nll)


def scores(trials: Trials, checkpoint: Checkpoint) -> Sensitivity:
    """What every group would lose in every format, on text to learn from; kept in the user's cache."""
    if find_spec("torch") is None:
        trials.say("torch is not installed: formats are judged by weights alone, and chosen less well")
        return weight_losses(checkpoint, OFFERED, trials.progress)
    settings, data = trials.settings, trials.learn_from
    calibration = possible(CALIBRATION, checkpoint, bool(data), trials.say)
    text = calibration_tokens(
        checkpoint,
        calibration,
        data,
        seed=settings.seed,
        threads=settings.threads,
        progress=trials.progress,
    )
    directory = cache_directory() / "sensitivity"
    return sensitivity(checkpoint, text, OFFERED, directory=directory, progress=trials.progress)
