"""What everything is measured against: the checkpoint as it is, in an artifact that keeps its dtype.

Such artifacts are cached under $PENJING_CACHE, or ~/.cache/penjing, by what they were made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from penjing.artifact import Artifact, is_artifact
from penjing.artifact.layout import FORMAT_VERSION
from penjing.artifact.staging import output_errors
from penjing.artifact.writer import objection_to_replacing
from penjing.errors import ArtifactError, OutputExistsError
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, silent
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset

STAGE = "reference"
TEXT_SUFFIXES = {".json", ".jinja", ".model", ".txt"}  # configuration, tokenizer, chat template


def reference_artifact(
    checkpoint: str | Path | Checkpoint, *, directory: Path | None = None, progress: Progress = silent
) -> Path:
    """The path of a checkpoint's reference artifact: weights in their own dtype, fp32 KV cache.

    Made on first use, in `directory` or the cache; if it is there already, every checksum is
    verified, and a damaged one is made anew. Raises CheckpointError or OutputError.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    path = (directory or cache_directory() / "references") / cache_key(opened)
    if path.exists():
        if is_whole(path):
            return path
        progress(f"{STAGE}: cached copy is damaged, making it anew", 0, 1)
    with output_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and objection_to_replacing(path) is not None:
            shutil.rmtree(path)  # too damaged to be known for an artifact
    try:
        quantize_checkpoint(
            opened,
            path,
            preset("keep"),
            force=path.exists(),
            progress=lambda *step: progress(STAGE, *step),
        )
    except OutputExistsError:
        if not is_whole(path):  # else another process has just made the same
            raise
    return path


def runnable(model: str | Path, progress: Progress = silent) -> Path:
    """An artifact as it is; a checkpoint through its reference artifact. Raises as `reference_artifact`."""
    return Path(model) if is_artifact(model) else reference_artifact(model, progress=progress)


def cache_directory() -> Path:
    """$PENJING_CACHE, or ~/.cache/penjing."""
    configured = os.environ.get("PENJING_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "penjing"


def cache_key(checkpoint: Checkpoint) -> str:
    """A name for all that is in the artifact: tensors, text files, a repository's name, and the format."""
    named = f"{checkpoint.name} {checkpoint.revision}"
    digest = hashlib.sha256(f"{FORMAT_VERSION} {named} {checkpoint.hash}".encode())
    for file in sorted(checkpoint.path.iterdir()):
        if file.suffix in TEXT_SUFFIXES:
            digest.update(f" {file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:32]


def is_whole(path: Path) -> bool:
    """Whether an artifact opens with every checksum as recorded."""
    try:
        Artifact.open(path)
    except ArtifactError:
        return False
    return True
