"""From what a person types to a directory that the engine or the workshop can open."""

from __future__ import annotations

import sys
from pathlib import Path

SEEDLING = Path(__file__).parents[1] / "seedling"
BUILT_IN_TEXT = SEEDLING / "heldout.jsonl"


def is_artifact(model: str) -> bool:
    """Whether this is a directory that Penjing wrote."""
    return (Path(model) / "manifest.json").is_file()


def checkpoint(model: str) -> str:
    """A checkpoint directory, or a name to fetch; `seedling` stands for the embedded model."""
    return str(SEEDLING) if model == "seedling" and not Path(model).exists() else model


def runnable(model: str) -> Path:
    """An artifact directory. A checkpoint is run as it is, through a cached artifact that keeps its dtype."""
    if is_artifact(model):
        return Path(model)
    from penjing.optimize.reference import reference_artifact

    return reference_artifact(checkpoint(model))


def text(data: Path | None) -> Path:
    """The text to measure on; that it is the built-in one is said aloud."""
    if data is not None:
        return data
    print("measuring on the built-in text (Python code); --data FILE measures on yours", file=sys.stderr)
    return BUILT_IN_TEXT
