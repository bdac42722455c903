"""What a walk has finished, on disk: `OUT.work/`, one file a block, so that a killed run can go on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.staging import lock_directory, output_errors, sync
from penjing.errors import OutputExistsError, OutputNotWritableError, SpecError
from penjing.formats.codes import Codes
from penjing.spec import WeightFormat, canonical_json

RUN_FILE = "run.json"
PARTS = ("codes", "scales", "zeros", "table", "residual")


@dataclass(frozen=True, eq=False)
class BlockResult:
    """A finished block, by names inside it: codes of its matrices, what its norms are divided by, and vectors
    that were tuned for the path that the codes were made for."""

    codes: Mapping[str, Codes]
    channel_scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class RunDirectory:
    """`OUT.SUFFIX`, locked while it is in use. run: all that decides the result, as plain data.

    Entering raises OutputExistsError if an unfinished run is there and neither `resume` nor `force` is given,
    SpecError if it was begun with other inputs, OutputNotWritableError.
    """

    suffix = "work"

    def __init__(self, out: Path, run: dict[str, Any], *, resume: bool, force: bool) -> None:
        self.path = out.parent / f"{out.name}.{self.suffix}"
        self.run = run
        self.resume = resume
        self.force = force
        self.lock: int | None = None

    def __enter__(self) -> Self:
        with output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock = lock_directory(self.path)
        if self.lock is None:
            raise OutputNotWritableError(f"{self.path}: another run is at work there; wait for it to end")
        try:
            self.begin()
        except BaseException:
            self.unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unlock()

    def begin(self) -> None:
        """Find an unfinished run to go on with, or make room for a new one."""
        present, text = {entry.name for entry in self.path.iterdir()}, canonical_json(self.run)
        if RUN_FILE in present and not self.resume and not self.force:
            raise OutputExistsError(
                f"{self.path}: holds an unfinished run; --resume goes on with it, --force begins anew"
            )
        if RUN_FILE not in present and any(not name.endswith(".partial") for name in present):
            raise OutputExistsError(f"{self.path}: was not written by Penjing; choose another name")
        if RUN_FILE in present and self.resume:
            self.check_run(text)
            return
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == RUN_FILE):  # that one last
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.write(RUN_FILE, text.encode())

    def check_run(self, text: str) -> None:
        """Raise SpecError, naming what differs, if the run that is there was another one."""
        found = json.loads((self.path / RUN_FILE).read_bytes())
        if canonical_json(found) != text:
            differing = sorted(key for key in {*found, *self.run} if found.get(key) != self.run.get(key))
            raise SpecError(
                f"{self.path}: was begun with another {' and '.join(differing)}; --force begins anew"
            )

    def write(self, name: str, content: bytes) -> None:
        """A file that is there whole or not at all."""
        partial = self.path / f"{name}.partial"
        with output_errors(self.path):
            partial.write_bytes(content)
            sync(partial)
            os.replace(partial, self.path / name)
            sync(self.path)

    def remove(self) -> None:
        """Delete everything: the result stands elsewhere."""
        shutil.rmtree(self.path, ignore_errors=True)

    def unlock(self) -> None:
        """Let go of the lock."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


class WorkDirectory(RunDirectory):
    """What a walk over blocks has finished."""

    def save(self, kind: str, index: int, result: BlockResult) -> None:
        """Record a finished block."""
        arrays: dict[str, NDArray[Any]] = {
            f"{name}|divisor": array for name, array in result.channel_scales.items()
        }
        arrays |= {f"{name}|vector": array for name, array in result.vectors.items()}
        for name, codes in result.codes.items():
            arrays[f"{name}|format"] = np.frombuffer(canonical_json(codes.format).encode(), np.uint8)
            parts = {part: getattr(codes, part) for part in PARTS}
            arrays |= {f"{name}|{part}": array for part, array in parts.items() if array is not None}
        partial = self.path / f"{self.name_of(kind, index)}.partial"
        with output_errors(self.path):
            with partial.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
            sync(partial)
            os.replace(partial, self.path / self.name_of(kind, index))
            sync(self.path)

    def load(self, kind: str, index: int) -> BlockResult:
        """A finished block."""
        codes: dict[str, dict[str, Any]] = {}
        divisors: dict[str, NDArray[np.float32]] = {}
        vectors: dict[str, NDArray[np.float32]] = {}
        with np.load(self.path / self.name_of(kind, index), allow_pickle=False) as arrays:
            for key in arrays.files:
                name, part = key.split("|")
                if part == "divisor":
                    divisors[name] = arrays[key]
                elif part == "vector":
                    vectors[name] = arrays[key]
                elif part == "format":
                    text = arrays[key].tobytes()
                    codes.setdefault(name, {})["format"] = WeightFormat.model_validate_json(text)
                else:
                    codes.setdefault(name, {})[part] = arrays[key]
        return BlockResult({name: Codes(**parts) for name, parts in codes.items()}, divisors, vectors)

    def num_finished(self, kind: str, num_blocks: int) -> int:
        """How many blocks are finished, from the first on."""
        for index in range(num_blocks):
            if not (self.path / self.name_of(kind, index)).exists():
                return index
        return num_blocks

    @staticmethod
    def name_of(kind: str, index: int) -> str:
        """The file of a block after the pass `kind`."""
        return f"{kind}-{index:05}.npz"
