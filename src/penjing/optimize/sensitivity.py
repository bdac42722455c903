"""Predicted loss of one group of matrices in one format, all else unquantized: cached and resumable."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.staging import output_errors
from penjing.errors import DataError
from penjing.models import Checkpoint
from penjing.optimize.choices import groups_of
from penjing.optimize.progress import Progress, silent
from penjing.quantize.assignment import KEEP, label
from penjing.spec import WeightFormat, canonical_json

VERSION = 1  # of how losses are predicted; another one begins again
DRAWS = 4  # of labels a sequence: a pass back costs little beside the products of all formats
# Hidden elements, below which one thread computes: products are small, two would mostly wait for each other,
# and on a busy machine each wait is as long as what the other processor does meanwhile.
SMALL = 1024
Sensitivity = dict[str, dict[str, float]]  # by group and format label: nats of KL a token


def sensitivity(
    checkpoint: Checkpoint,
    tokens: NDArray[np.int64],
    formats: Sequence[WeightFormat],
    *,
    directory: Path,
    seed: int = 0,
    progress: Progress = silent,
) -> Sensitivity:
    """Predicted KL, nats a token, of every group in every format, in the order of execution.

    tokens: int64 [sequences, length]. Formats round as the method `search` does; `keep` costs nothing, and
    one that cannot hold the weights of a group is left out. What is found is kept in `directory` group by
    group, under a hash of checkpoint, tokens, formats and version: a run that was killed goes on where it
    stopped, and a second one reads. Scratch files in `directory` hold the blocks' inputs meanwhile. Raises
    DataError for tokens that are not of the model, CheckpointError, OutputError.
    """
    check_tokens(checkpoint, tokens)
    groups = dict(groups_of(checkpoint.config))
    coded = {label(format): format for format in formats if format != KEEP}
    path = directory / f"{key_of(checkpoint, tokens, list(coded), seed)}.json"
    found = recall(path)
    if set(groups) - set(found):
        with output_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        module = import_module("penjing.quantize.rounding_losses")  # loads torch
        shaping = import_module("penjing.optimize.shaping")
        threads = 1 if checkpoint.config.hidden_size < SMALL else None
        with TemporaryDirectory(dir=directory) as scratch, shaping.torch_threads(threads):
            predicted = module.RoundingLosses(
                checkpoint.config, checkpoint.read, tokens, draws=DRAWS, seed=seed, directory=Path(scratch)
            )
            done = set(found)
            for name, losses in predicted.by_group(
                groups, coded, done, lambda now, total: progress("loss by group", now, total)
            ):
                found[name] = losses
                remember(path, found)
    zero = {label(KEEP): 0.0} if KEEP in formats else {}
    return {
        name: {label: loss for label, loss in found[name].items() if math.isfinite(loss)} | zero
        for name in groups
    }


def check_tokens(checkpoint: Checkpoint, tokens: NDArray[np.int64]) -> None:
    """Raise DataError for tokens that the model cannot read."""
    config = checkpoint.config
    if tokens.ndim != 2 or tokens.size == 0:
        raise DataError(f"tokens {list(tokens.shape)} are not [sequences, length]")
    if tokens.min() < 0 or tokens.max() >= config.vocab_size or tokens.shape[1] > config.max_positions:
        raise DataError(
            f"tokens {list(tokens.shape)} go beyond the model's {config.vocab_size} tokens or "
            f"{config.max_positions} positions"
        )


def key_of(checkpoint: Checkpoint, tokens: NDArray[np.int64], labels: list[str], seed: int) -> str:
    """What predictions depend on, as a hash."""
    digest = hashlib.sha256(np.ascontiguousarray(tokens, "<i8").tobytes()).hexdigest()
    facts = {
        "version": VERSION,
        "checkpoint": checkpoint.hash,
        "tokens": [*tokens.shape, digest],
        "formats": sorted(labels),
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:32]


def recall(path: Path) -> Sensitivity:
    """What was found before."""
    if not path.exists():
        return {}
    found: Sensitivity = json.loads(path.read_text("utf-8"))
    return found


def remember(path: Path, found: Sensitivity) -> None:
    """Write all that was found so far, at once."""
    with output_errors(path.parent):
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1), "utf-8")
        os.replace(partial, path)
