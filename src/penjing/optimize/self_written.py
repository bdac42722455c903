"""Calibration text that a model writes itself: what it will be asked to compute looks most like that."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact, ModelConfig
from penjing.artifact.staging import output_errors
from penjing.engine import Engine, Sampling
from penjing.errors import FormatError, NonFiniteActivationError
from penjing.models import Checkpoint
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import cache_directory
from penjing.quantize import quantize_checkpoint
from penjing.spec import WeightFormatName, preset

WRITER_FORMAT: WeightFormatName = (
    "int8"  # as good as lossless, and writes several times as fast as the checkpoint itself
)


def self_written(
    checkpoint: Checkpoint,
    count: int,
    length: int,
    seed: int,
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> NDArray[np.int64]:
    """Token ids [count, length], sampled at temperature 1 from the model in 8 bits; the same for one seed.

    Each sequence begins with the beginning-of-text token, or the end-of-text token, or a random one. Cached
    under the cache directory (`reference_artifact`). Raises CheckpointError, NonFiniteActivationError.
    """
    key = hashlib.sha256(f"{checkpoint.hash} {count} {length} {seed}".encode()).hexdigest()[:32]
    directory = cache_directory() / "self-written"
    path = directory / f"{key}.npy"
    if path.exists():
        found: NDArray[np.int64] = np.load(path, allow_pickle=False)
        return found
    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory) as scratch:
        artifact = writer(checkpoint, Path(scratch) / "writer", progress)
        tokens = write(artifact, count, length, seed=seed, threads=threads, progress=progress)
        with output_errors(directory):
            np.save(Path(scratch) / "tokens.npy", tokens, allow_pickle=False)
            os.replace(Path(scratch) / "tokens.npy", path)
    return tokens


def write(
    artifact: Artifact, count: int, length: int, *, seed: int, threads: int | None, progress: Progress
) -> NDArray[np.int64]:
    """Sample `count` sequences side by side."""
    engine = Engine(
        artifact.path, threads=threads, prefix_cache=False, max_sequences=min(count, 64), max_queue=count
    )
    starts = first_tokens(artifact.config, count, seed)
    rows: dict[int, list[int]] = {}
    for number, start in enumerate(starts):
        sampling = Sampling(
            max_tokens=length - 1, temperature=1.0, seed=(seed << 20) % 2**63 + number, ignore_eos=True
        )
        rows[engine.submit([start], sampling)] = [start]
    written = 0
    while engine.has_work:
        for event in engine.step():
            if event.token is None:
                raise NonFiniteActivationError("the model writes NaN or Inf: the checkpoint is damaged")
            rows[event.sequence_id].append(event.token)
            written += 1
        progress("text that the model writes", written, count * (length - 1))
    return np.array(list(rows.values()), np.int64)


def first_tokens(config: ModelConfig, count: int, seed: int) -> list[int]:
    """What sequences begin with."""
    fixed = config.bos_ids or config.eos_ids
    if fixed:
        return [fixed[0]] * count
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, config.vocab_size, count)
    return [int(token) for token in drawn]


def writer(checkpoint: Checkpoint, path: Path, progress: Progress) -> Artifact:
    """The model that writes: in 8 bits, or as it is if that cannot hold its weights."""

    def report(done: int, total: int) -> None:
        progress("a model to write with", done, total)

    try:
        return quantize_checkpoint(checkpoint, path, preset(WRITER_FORMAT, method="range"), progress=report)
    except FormatError:
        return quantize_checkpoint(checkpoint, path, preset("keep"), progress=report)
