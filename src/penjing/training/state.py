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
from penjing.training.curves import curves_svg
from penjing.training.ranks import SINGLE, Ranks

STATE_NAME = "state.pt"
CURVE_NAME = "curve.json"
PICTURE_NAME = "curve.svg"

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """What a run has done so far. The curves hold (steps done, mean loss) pairs; `seconds` is wall time."""

    step: int = 0
    train_curve: list[tuple[int, float]] = field(default_factory=list)
    heldout_curve: list[tuple[int, float]] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    best_losses: list[float] | None = None
    best_step: int = 0
    num_bad_evaluations: int = 0
    stopped_early: bool = False
    seconds: float = field(default=0.0, compare=False)


@dataclass
class Run:
    """A run in memory: what is trained, how, and how far. `settings` describes what must not change on
    resume; `centre` holds the initial trainable parameters where a radius bounds the run.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    settings: str
    progress: Progress = field(default_factory=Progress)
    best_weights: Weights | None = None
    centre: list[Tensor] | None = None

    def trainable(self) -> list[nn.Parameter]:
        """The trainable parameters, in the model's order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def save_state(directory: Path, run: Run, ranks: Ranks = SINGLE) -> None:
    """Write state.pt, curve.json and curve.svg, each atomically: rank 0 does, but all ranks call."""
    state = {
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "settings": run.settings,
        "progress": asdict(run.progress),
        "best_weights": run.best_weights,
        "centre": run.centre,
    }
    whole = gathered(state, ranks)
    if ranks.rank == 0:
        write_state(directory, whole, run.progress)
    ranks.any(False)  # nobody goes on, perhaps to load it, before it is there


def write_state(directory: Path, state: dict[str, Any], progress: Progress) -> None:
    """The files of a state, each in one go."""
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / (STATE_NAME + ".unfinished")
    with unfinished.open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(unfinished, directory / STATE_NAME)
    curves = {"train": progress.train_curve, "heldout": progress.heldout_curve}
    shown = {"training": progress.train_curve, "held out": progress.heldout_curve}
    write_text(directory / CURVE_NAME, json.dumps(curves) + "\n")
    write_text(directory / PICTURE_NAME, curves_svg("loss over steps", shown))


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one go."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)


def gathered(state: Any, ranks: Ranks) -> Any:
    """The same tree with every divided tensor gathered; rank 0 keeps it in main memory, others drop it."""
    if isinstance(state, Tensor):
        whole = ranks.whole(state.detach())
        return None if ranks.rank else whole.cpu()
    if isinstance(state, dict):
        return {key: gathered(value, ranks) for key, value in state.items()}
    return [gathered(value, ranks) for value in state] if isinstance(state, list) else state


def load_state(directory: Path, run: Run, ranks: Ranks = SINGLE) -> bool:
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
            restore(run, state, ranks)
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


def restore(run: Run, state: dict[str, Any], ranks: Ranks) -> None:
    """Put a state's whole tensors into `run`, of divided ones this rank's part."""
    like = run.model.state_dict()
    run.model.load_state_dict({name: ranks.part(w, like[name]) for name, w in state["model"].items()})
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, kept in saved["state"].items():
            for name, tensor in kept.items():
                if isinstance(tensor, Tensor) and tensor.shape == parameters[number].shape:
                    kept[name] = ranks.part(tensor, parameters[number])
        optimizer.load_state_dict(saved)
    run.progress = Progress(**state["progress"])
    best = state["best_weights"]
    run.best_weights = best and {name: ranks.part(w, like[name]) for name, w in best.items()}
    if run.centre is not None:
        run.centre = [ranks.part(w, origin) for w, origin in zip(state["centre"], run.centre, strict=True)]
