"""Penjing's own artifacts for the same comparison: each made once, and looked at in three ways."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import penjing
from penjing.artifact import Artifact, is_artifact
from penjing.artifact.manifest import TensorEntry
from penjing.formats import decode
from penjing.models import Checkpoint
from penjing.models.families import family_named
from penjing.models.layout import published_name
from penjing.optimize.quantizing import TUNING_SEQUENCES_A_STEP
from penjing.optimize.self_written import self_written
from penjing.quantize import quantize_checkpoint
from penjing.spec import Recipe, Tier, canonical_json, validate
from quantizers.texts import Windows

MAKERS = ("quantize", "formats", "models", "artifact", "spec")  # what an artifact's bytes depend on


@dataclass(frozen=True)
class Made:
    """An artifact, and the processor time of the run that made it."""

    artifact: Artifact
    processor_seconds: float

    def tensors(self, tier: Tier, *, embedding: bool) -> dict[str, NDArray[np.float32]]:
        """What its matrices stand for, by published name; embedding and head only if asked for.

        Norms come along: tuning changes them with the matrices. They cost no bits beside the original's.
        """
        family = family_named(self.artifact.config.family)
        matrices = {
            published_name(name, family): decode(self.artifact.matrix(name), tier)
            for name, _ in self.matrices()
            if embedding or name.startswith("blocks.")
        }
        vectors = {
            published_name(name, family): self.artifact.vector(name, tier)
            for name, entry in self.artifact.entries()
            if len(entry.shape) == 1
        }
        return matrices | vectors

    def bits_per_weight(self, tier: Tier) -> float:
        """Of the matrices in blocks: everything stored for them that the tier reads, padding included."""
        inside = [entry for name, entry in self.matrices() if name.startswith("blocks.")]
        stored = sum(
            part.nbytes
            for entry in inside
            for name, part in entry.parts.items()
            if tier == "best" or name != "residual"
        )
        return 8 * stored / sum(entry.shape[0] * entry.shape[1] for entry in inside)

    def matrices(self) -> Iterator[tuple[str, TensorEntry]]:
        """Every matrix with its row in the manifest."""
        return ((name, entry) for name, entry in self.artifact.entries() if len(entry.shape) == 2)


def make(checkpoint: Checkpoint, step: dict[str, Any], calibration: Windows, cache: Path) -> Made:
    """The artifact of a recipe of one step; made again when the code that makes it has changed."""
    recipe = validate(Recipe, {"steps": [step]}, "bench/quantizers/plan.py")
    facts = f"{checkpoint.hash} {canonical_json(recipe)} {calibration.sha256} {code_hash()}"
    path = cache / "ours" / hashlib.sha256(facts.encode()).hexdigest()[:12]
    timing = path.with_suffix(".seconds")
    if not (is_artifact(path) and timing.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        begin = time.process_time()
        if recipe.steps[0].needs_data:
            from penjing.quantize.calibrated import quantize_calibrated

            written = tuning_text(checkpoint, recipe.steps[0].tuning_steps or 0, calibration.tokens.shape[1])
            quantize_calibrated(
                checkpoint,
                path,
                recipe,
                calibration.tokens,
                force=path.exists(),
                resume=path.with_name(f"{path.name}.work").exists(),
                tuning_tokens=written,
            )
        else:
            quantize_checkpoint(checkpoint, path, recipe, force=path.exists())
        timing.write_text(str(time.process_time() - begin))
    return Made(Artifact.open(path), float(timing.read_text()))


def tuning_text(checkpoint: Checkpoint, steps: int, length: int) -> NDArray[np.int64] | None:
    """What `penjing quantize` tunes on: text that the model writes itself, cached."""
    count = steps * TUNING_SEQUENCES_A_STEP
    return self_written(checkpoint, count, length, seed=1) if count else None


def code_hash() -> str:
    """SHA-256 of the sources that make artifacts."""
    root, digest = Path(penjing.__file__).parent, hashlib.sha256()
    for maker in MAKERS:
        for file in sorted((root / maker).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
