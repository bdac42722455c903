"""`penjing quantize`: calibration text, the walk, and the gate that what was written is what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact
from penjing.artifact.config import count_parameters
from penjing.data.calibration import BUILT_IN_TEXT, calibration_sequences
from penjing.errors import SpecError
from penjing.measure.machine import usable_memory_bytes
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, Say, silent
from penjing.optimize.self_written import self_written
from penjing.quantize import quantize_checkpoint
from penjing.quantize.walk import Origin, last_step
from penjing.spec import Calibration, QuantizeStep, Recipe
from penjing.text import Tokenizer
from penjing.text.tokenizer import TOKENIZER_FILE

TUNING_STEPS = 200
TUNING_SEQUENCES_A_STEP = 2  # written for it: every sequence is seen twice
TUNING_BYTES_A_WEIGHT = 40  # original, latent, gradient, two moments, and what a step computes
LARGEST_TUNED = 50_000_000  # weights: beyond, tuning takes hours


def quantize(
    model: str | Path | Checkpoint,
    out: str | Path,
    recipe: Recipe,
    data: Sequence[Path] = (),
    *,
    origin: Origin | None = None,
    max_ram_bytes: int | None = None,
    resume: bool = False,
    force: bool = False,
    threads: int | None = None,
    say: Say = silent,
    progress: Progress = silent,
) -> Artifact:
    """Write the artifact of a recipe, with calibration text where its method needs it.

    data: texts to calibrate on; without, the built-in one and one that the model writes itself, in the parts
    that the recipe says. origin: where earlier steps of the recipe began, if there were any. The recipe in
    the artifact says what was done. Raises SpecError for options that a
    method without data cannot have, and what `quantize_checkpoint` and `quantize_calibrated` raise.
    """
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(model)
    step = last_step(recipe, origin)
    calibration = step.calibration
    if calibration is None:
        if data or resume or max_ram_bytes is not None:
            raise SpecError(
                f"the method {step.method} looks at weights alone: leave out --data, --resume "
                "and --max-ram, or choose --method auto"
            )
        return quantize_checkpoint(
            checkpoint,
            out,
            recipe,
            origin=origin,
            force=force,
            progress=lambda done, total: progress("quantize", done, total),
        )
    calibration = possible(calibration, checkpoint, bool(data), say)
    steps = tuning_steps(step, checkpoint, say)
    step = step.model_copy(update={"calibration": calibration, "tuning_steps": steps})
    tokens = calibration_tokens(
        checkpoint, calibration, data, seed=recipe.seed, threads=threads, progress=progress
    )
    tuning_tokens = None
    if steps and calibration.self_written > 0:
        count, length = steps * TUNING_SEQUENCES_A_STEP, tokens.shape[1]
        tuning_tokens = self_written(
            checkpoint, count, length, recipe.seed + 1, threads=threads, progress=progress
        )
    calibrated = import_module("penjing.quantize.calibrated")  # loads torch, which the rest does without
    gate = import_module("penjing.optimize.gate")
    limit = {} if max_ram_bytes is None else {"max_ram_bytes": max_ram_bytes}
    artifact: Artifact = calibrated.quantize_calibrated(
        checkpoint,
        out,
        recipe.model_copy(update={"steps": (*recipe.shaping, step)}),
        tokens,
        origin=origin,
        **limit,
        resume=resume,
        force=force,
        say=say,
        report=progress,
        tuning_tokens=tuning_tokens,
        check=partial(gate.check_calibrated, checkpoint=checkpoint, step=step, tokens=tokens),
    )
    return artifact


def tuning_steps(step: QuantizeStep, checkpoint: Checkpoint, say: Say) -> int:
    """Steps of tuning the whole model: what is asked for or, for `auto`, some where the model is small."""
    if step.tuning_steps is not None or step.method != "auto":
        return step.tuning_steps or 0
    weights = count_parameters(checkpoint.config)
    limit = min(LARGEST_TUNED, usable_memory_bytes() // (2 * TUNING_BYTES_A_WEIGHT))
    if weights <= limit:
        return TUNING_STEPS
    say(
        f"{weights / 1e6:,.0f} million weights: too many to tune together here (at most {limit / 1e6:,.0f}); "
        "blocks are quantized one by one, and stay so"
    )
    return 0


def possible(calibration: Calibration, checkpoint: Checkpoint, has_data: bool, say: Say) -> Calibration:
    """The calibration that can be had; what is left of what was asked for is said aloud."""
    has_tokenizer = (checkpoint.path / TOKENIZER_FILE).is_file()
    share = calibration.self_written
    if has_data:
        share = 0.0
    elif not has_tokenizer:
        share = 1.0
        say("no tokenizer: calibrating on text that the model writes, alone")
    elif share > 0 and checkpoint.tensor_bytes > usable_memory_bytes():
        share = 0.0
        say("the checkpoint is larger than memory: calibrating on the built-in text alone")
    length = min(calibration.sequence_tokens, checkpoint.config.max_positions)
    return calibration.model_copy(update={"self_written": share, "sequence_tokens": length})


def calibration_tokens(
    checkpoint: Checkpoint,
    calibration: Calibration,
    data: Sequence[Path],
    *,
    seed: int,
    threads: int | None,
    progress: Progress,
) -> NDArray[np.int64]:
    """Token ids [sequences, length]: given or built-in text and self-written text take turns."""
    length = calibration.sequence_tokens
    count = max(1, calibration.tokens // length)
    num_written = round(calibration.self_written * count)
    parts = []
    if num_written < count:
        tokenizer = Tokenizer.load(checkpoint.path)
        paths = list(data) or [BUILT_IN_TEXT]
        parts.append(calibration_sequences(paths, tokenizer, count - num_written, length))
    if num_written:
        parts.append(self_written(checkpoint, num_written, length, seed, threads=threads, progress=progress))
    # In turns, so that the sequences held apart at the end are of both kinds.
    places = np.concatenate([np.arange(len(part)) / len(part) for part in parts])
    return np.concatenate(parts)[np.argsort(places, kind="stable")]
