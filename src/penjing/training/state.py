"""The state of a training run on disk: written to a temporary sibling, synced, then renamed.

A run killed at any moment finds either the previous state or the new one. The state holds all that later
steps depend on (weights, optimizers, step, early stopping; random numbers are a function of the step), so a
resumed run ends with the same bytes.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.errors import CorruptCheckpointError, SpecError

STATE_NAME = "state.pt"
CURVE_NAME = "curve.json"

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """What a run has done so far. The curves hold (steps done, mean loss) pairs."""

    step: int = 0
    train_curve: list[tuple[int, float]] = field(default_factory=list)
    heldout_curve: list[tuple[int, float]] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = 0
    num_bad_evaluations: int = 0
    stopped_early: bool = False


@dataclass
class Run:
    """A run in memory: what is trained, how, and how far. `settings` describes what must not change on
    resume.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    settings: str
    progress: Progress = field(default_factory=Progress)
    best_weights: Weights | None = None


def save_state(directory: Path, run: Run) -> None:
    """Write state.pt and curve.json under `directory`, each atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "settings": run.settings,
        "progress": asdict(run.progress),
        "best_weights": run.best_weights,
    }
    unfinished = directory / (STATE_NAME + ".unfinished")
    with unfinished.open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(unfinished, directory / STATE_NAME)
    curves = {"train": run.progress.train_curve, "heldout": run.progress.heldout_curve}
    unfinished = directory / (CURVE_NAME + ".unfinished")
    unfinished.write_text(json.dumps(curves) + "\n")
    os.replace(unfinished, directory / CURVE_NAME)


def load_state(directory: Path, run: Run) -> bool:
    """Restore `run` in place from `directory`; False when there is no state.

    Raises CorruptCheckpointError for a file that is not a state of this model, and SpecError when the run was
    started with other settings.
    """
    path = directory / STATE_NAME
    if not path.is_file():
        return False
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        settings = state["settings"]
        if settings == run.settings:
            run.model.load_state_dict(state["model"])
            for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            run.progress = Progress(**state["progress"])
            run.best_weights = state["best_weights"]
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        summary = str(error).split("\n")[0]
        raise CorruptCheckpointError(
            f"{path} is not a state of this run ({summary}): remove it, or choose another directory"
        ) from error
    if settings != run.settings:
        raise SpecError(
            f"{path} was started with {settings}, not with {run.settings}: choose another directory"
        )
    return True
