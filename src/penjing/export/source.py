"""What every export asks of the artifact that it is made from."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact import Artifact
from penjing.artifact.layout import RESIDUAL_FILE, TENSORS_FILE
from penjing.errors import SpecError
from penjing.spec import Tier


def chosen_tier(artifact: Artifact, tier: Tier | None) -> Tier:
    """The tier asked for, or the best one. Raises SpecError for one that the artifact lacks."""
    chosen = tier or artifact.tiers[-1]
    if chosen not in artifact.tiers:
        raise SpecError(f"{artifact.path}: has no tier {chosen}; it runs at {' or '.join(artifact.tiers)}")
    return chosen


def text_files(artifact: Artifact) -> list[Path]:
    """The files that a checkpoint has too: tokenizer, chat template, generation settings."""
    return [
        artifact.path / name for name in sorted(set(artifact.manifest.files) - {TENSORS_FILE, RESIDUAL_FILE})
    ]
