"""One judge for all: candidates run in Penjing's engine, and are compared with the original, token by token.

Dequantized weights run as a checkpoint of float32 matrices, with float32 activations and KV cache; an
artifact runs as it is served. What was found is kept under the hash of what was judged.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.measure.quality import concatenate
from penjing.measure.stats import upper_bound
from penjing.models import Checkpoint
from penjing.models.families import family_named
from penjing.models.layout import published_name
from penjing.optimize.compare import ROWS_PER_STEP, compare_engines
from penjing.optimize.evaluate import Settings, open_engine
from penjing.optimize.progress import silent
from penjing.optimize.reference import reference_artifact
from penjing.spec import Tier
from quantizers.texts import Windows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """KL to the original and increase of NLL, float64 [tokens]; lengths: scored tokens of each document."""

    kl: Floats
    delta_nll: Floats
    lengths: NDArray[np.int64]

    def documents(self, values: Floats) -> list[Floats]:
        """Values of every token, by document."""
        return np.split(values, np.cumsum(self.lengths)[:-1])

    def interval(self, values: Floats) -> tuple[float, float, float]:
        """Mean, and the two bounds of its 90% interval; documents are what is resampled."""
        upper = upper_bound(self.documents(values))
        return upper.mean, -upper_bound(self.documents(-values)).upper, upper.upper


class Judge:
    """Compares candidates with one checkpoint on the same windows; `cache` holds what was found."""

    def __init__(self, model: Path, windows: Windows, cache: Path, threads: int) -> None:
        self.checkpoint = Checkpoint.open(model)
        self.windows = windows
        key = hashlib.sha256(f"{self.checkpoint.hash} {windows.sha256}".encode()).hexdigest()
        self.cache = cache / "verdicts" / key[:12]
        self.cache.mkdir(parents=True, exist_ok=True)
        self.threads = threads

    def weights(self, tensors: Mapping[str, NDArray[np.float32]]) -> Verdict:
        """The checkpoint with these tensors, by published name, in place of its own."""
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(f"{name} ".encode() + np.ascontiguousarray(tensors[name], np.float32).tobytes())
        path = self.cache / f"weights-{digest.hexdigest()[:24]}.npz"
        if not path.exists():
            with TemporaryDirectory() as scratch:
                directory = Path(scratch) / "candidate"
                self.write(tensors, directory)
                self.run(reference_artifact(directory, directory=Path(scratch)), "best", path)
        return recall(path)

    def artifact(self, artifact: Artifact, tier: Tier) -> Verdict:
        """An artifact as it is served."""
        path = self.cache / f"served-{artifact.hash[:24]}-{tier}.npz"
        if not path.exists():
            self.run(artifact.path, tier, path)
        return recall(path)

    def write(self, tensors: Mapping[str, NDArray[np.float32]], directory: Path) -> None:
        """A checkpoint in float32."""
        directory.mkdir()
        for file in self.checkpoint.path.glob("*.json"):
            shutil.copyfile(file, directory / file.name)
        family = family_named(self.checkpoint.config.family)
        whole = {}
        for canonical in self.checkpoint.tensors:
            name = published_name(canonical, family)
            own = tensors[name] if name in tensors else self.checkpoint.read(canonical)
            whole[name] = np.ascontiguousarray(own, np.float32)
        save_file(whole, directory / "model.safetensors")

    def run(self, artifact: Path, tier: Tier, target: Path) -> None:
        """Run an artifact over every window, and keep what is found."""
        found = compare_engines(self.original(), self.engine(artifact, tier), self.nested(), tier, silent)
        joined = concatenate(found)
        lengths = np.array([len(document.kl) for document in found], np.int64)
        partial = target.with_name(f"partial-{target.name}")
        np.savez(partial, kl=joined.kl, delta_nll=joined.delta_nll, lengths=lengths)
        partial.rename(target)

    def engine(self, artifact: Path, tier: Tier) -> Engine:
        """For one window at a time."""
        settings = Settings(window=self.windows.tokens.shape[1], threads=self.threads, speed=False)
        return open_engine(artifact, settings, tier)

    def original(self) -> Recorded:
        """The checkpoint's own logits: computed once, and read from a file from then on."""
        path = self.cache / "original.npy"
        windows = self.windows.tokens
        if not path.exists():
            engine = self.engine(reference_artifact(self.checkpoint), "best")
            partial = path.with_name("partial-original.npy")
            shape = (len(windows), windows.shape[1] - 1, engine.config.vocab_size)
            logits = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
            for number, window in enumerate(windows):
                logits[number] = np.concatenate(list(engine.logits(window[:-1].tolist())))
            logits.flush()
            partial.rename(path)
        return Recorded(windows, np.load(path, mmap_mode="r"))

    def nested(self) -> list[list[list[int]]]:
        """[documents][windows][tokens]."""
        numbers = self.windows.documents
        return [self.windows.tokens[numbers == number].tolist() for number in np.unique(numbers)]


class Recorded:
    """Implements penjing.optimize.compare.LogitsSource for the windows whose logits are known.

    windows: int64 [windows, tokens]. recorded: float32 [windows, tokens - 1, vocabulary].
    """

    def __init__(self, windows: NDArray[np.int64], recorded: NDArray[np.float32]) -> None:
        self.places = {tuple(window[:-1]): number for number, window in enumerate(windows.tolist())}
        self.recorded = recorded

    def logits(
        self, tokens: Sequence[int], tier: Tier | None = None, rows_per_step: int = ROWS_PER_STEP
    ) -> Iterator[NDArray[np.float32]]:
        """A window's logits, in chunks as an engine gives them; the original has one tier."""
        assert tier is None
        rows = self.recorded[self.places[tuple(tokens)]]
        for start in range(0, len(rows), rows_per_step):
            yield rows[start : start + rows_per_step]


def recall(path: Path) -> Verdict:
    """What was found before."""
    with np.load(path) as found:
        return Verdict(found["kl"], found["delta_nll"], found["lengths"])
