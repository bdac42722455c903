"""`penjing compress`: the steps of a recipe in order, each from the checkpoint that the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from penjing.artifact import Artifact
from penjing.artifact.staging import StagingDirectory
from penjing.artifact.writer import objection_to_replacing
from penjing.errors import CorruptCheckpointError, SpecError
from penjing.models import Checkpoint
from penjing.optimize.distilling import distilled
from penjing.optimize.order import Order, Shaped
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.pruning import pruned
from penjing.optimize.quantizing import quantize
from penjing.optimize.shaping import check_output
from penjing.optimize.training import trained
from penjing.optimize.transferring import transferred
from penjing.quantize.state import RunDirectory
from penjing.quantize.walk import Origin
from penjing.spec import PruneStep, Recipe, ShapingStep, Spec, TrainStep, TransferStep
from penjing.spec.steps import Paced


class Compressed(Spec):
    """What a recipe came to.

    artifact_hash: None where the last step leaves a checkpoint. checkpoint_bytes: of the tensors of the model
    that it began with. recipe: as it was done. shaped: the steps before quantizing, one by one.
    """

    path: str
    artifact_hash: str | None
    tensor_bytes: int
    checkpoint_bytes: int
    recipe: Recipe
    shaped: tuple[Shaped, ...]


class Workspace(RunDirectory):
    """`OUT.steps`: what every step left, until the last one is done."""

    suffix = "steps"


def apply_recipe(
    model: str | Path,
    out: str | Path,
    recipe: Recipe,
    data: Sequence[Path] = (),
    *,
    resume: bool = False,
    force: bool = False,
    threads: int | None = None,
    say: Say = silent,
    progress: Progress = silent,
) -> Compressed:
    """Take the steps of a recipe; write an artifact if it ends with `quantize`, else a checkpoint.

    The artifact names the checkpoint that the first step began with, which is also the teacher of `distill`,
    and holds the recipe as it was done: minutes are the steps that they came to. data: what is judged by and
    learned from; without, the built-in text and one that the model writes itself. What is finished lies in
    `OUT.steps`; `resume` goes on from there, to the same bytes. Raises SpecError for steps that do not suit
    the model, OutputExistsError, and what the steps raise.
    """
    source, target = Checkpoint.open(model), Path(out)
    ends_quantized = len(recipe.shaping) < len(recipe.steps)
    if not data and any(isinstance(step, TrainStep) for step in recipe.steps):
        raise SpecError("recipe: train learns from a text of yours; give it with --data")
    if ends_quantized:
        StagingDirectory(target, force=force, objection=objection_to_replacing).check_target()
    else:
        check_output(target, force)
    run = {"model": source.hash, "recipe": recipe.model_dump(mode="json"), "data": described(data)}
    order = Order(target, data, recipe.seed, force, threads, say, progress)
    with Workspace(target, run, resume=resume, force=force) as work:
        course = Course(source, recipe, order, work, resume)
        shaped = [course.shaped(number) for number in range(len(recipe.shaping))]
        recipe = as_done(recipe, shaped)
        artifact = course.quantized(recipe, shaped) if ends_quantized else None
        work.remove()
    return Compressed(
        path=str(target),
        artifact_hash=None if artifact is None else artifact.hash,
        tensor_bytes=shaped[-1].after.tensor_bytes if artifact is None else artifact.tensor_bytes,
        checkpoint_bytes=source.tensor_bytes,
        recipe=recipe,
        shaped=tuple(shaped),
    )


@dataclass(frozen=True)
class Course:
    """One run of a recipe. source: what the first step begins with. order: for what the last one leaves."""

    source: Checkpoint
    recipe: Recipe
    order: Order
    work: Workspace
    resume: bool

    def place(self, number: int) -> Path:
        """Where a step's checkpoint lies: the last one's, if nothing comes after it, in its own place."""
        if number == len(self.recipe.steps) - 1:
            return self.order.out
        return self.work.path / f"{number + 1}-{self.recipe.steps[number].step}"

    def beginning(self, number: int) -> Path:
        """What a step begins with."""
        return self.source.path if number == 0 else self.place(number - 1)

    def shaped(self, number: int) -> Shaped:
        """What a step made, now or before. Raises CorruptCheckpointError for a record that is none."""
        step, record = self.recipe.shaping[number], self.work.path / f"{number + 1}.json"
        if record.is_file():
            try:
                return Shaped.model_validate_json(record.read_bytes())
            except ValidationError:
                raise CorruptCheckpointError(f"{record}: was damaged; --force begins anew") from None
        self.order.say(f"step {number + 1} of {len(self.recipe.steps)}: {step.step}")
        shaped = self.take(step, number)
        self.work.write(record.name, shaped.model_dump_json().encode())
        return shaped

    def take(self, step: ShapingStep, number: int) -> Shaped:
        """Take a step; a checkpoint that is there without a record was perhaps not the last of its kind."""
        model, out = self.beginning(number), self.place(number)
        order = replace(self.order, out=out, force=self.order.force or out != self.order.out)
        state = self.work.path / f"{number + 1}-state"
        if isinstance(step, PruneStep):
            return pruned(model, step, order)
        if isinstance(step, TransferStep):
            return transferred(model, step, order)
        if isinstance(step, TrainStep):
            return trained(model, step, order, state)
        return distilled(model, self.source.path, step, order, state=state)

    def quantized(self, recipe: Recipe, shaped: Sequence[Shaped]) -> Artifact:
        """The artifact of the last checkpoint, in the name of the first."""
        needs_data, order = recipe.quantizing.needs_data, self.order
        order.say(f"step {len(recipe.steps)} of {len(recipe.steps)}: quantize")
        return quantize(
            self.beginning(len(recipe.shaping)),
            order.out,
            recipe,
            order.data if needs_data else (),
            origin=Origin(self.source, tuple(step.text for step in shaped)),
            resume=self.resume and needs_data,
            force=order.force,
            threads=order.threads,
            say=order.say,
            progress=order.progress,
        )


def as_done(recipe: Recipe, shaped: Sequence[Shaped]) -> Recipe:
    """The recipe with numbers of steps in place of minutes."""
    steps = [
        step.model_copy(update={"steps": made.steps, "minutes": None}) if isinstance(step, Paced) else step
        for step, made in zip(recipe.shaping, shaped, strict=True)
    ]
    return recipe.model_copy(update={"steps": (*steps, *recipe.steps[len(steps) :])})


def described(data: Sequence[Path]) -> list[list[str | int]]:
    """What tells files from others without reading them: names, sizes, times of their last change."""
    files = [
        file
        for path in map(Path, data)
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.is_file()
    ]
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
