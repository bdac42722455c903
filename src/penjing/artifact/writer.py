"""Writes an artifact one tensor at a time, in constant memory, and publishes it whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.checksum import available_threads, sha256_of
from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.artifact.layout import (
    BESIDE_THE_MANIFEST,
    CODED_PARTS,
    MANIFEST_FILE,
    RESIDUAL_FILE,
    TENSORS_FILE,
    PartName,
    TensorFile,
    file_of,
    header,
    padding_after,
)
from penjing.artifact.manifest import FileEntry, Manifest, Part, Provenance, TensorEntry
from penjing.artifact.staging import StagingDirectory, output_errors, sync
from penjing.artifact.structure import check_tiers
from penjing.errors import (
    FormatError,
    MissingTensorError,
    NonFiniteWeightError,
    TensorShapeError,
    TokenizerError,
)
from penjing.formats import Encoded
from penjing.kernels import crc32c

OWN_FILES = frozenset({MANIFEST_FILE, TENSORS_FILE, RESIDUAL_FILE}) | BESIDE_THE_MANIFEST


class TensorFileWriter:
    """Appends aligned parts to tensors.bin or residual.bin, hashing as it goes."""

    def __init__(self, path: Path, file: TensorFile) -> None:
        self.file: TensorFile = file
        self.stream: BinaryIO = path.open("xb")
        self.digest = hashlib.sha256()
        self.position = 0
        self.append(header(file))

    def append(self, data: bytes | memoryview) -> None:
        """Write bytes at the end."""
        self.stream.write(data)
        self.digest.update(data)
        self.position += len(data)

    def add(self, data: NDArray[np.uint8]) -> Part:
        """Write one part and the zeros after it."""
        offset = self.position
        self.append(data.data)
        self.append(bytes(padding_after(self.position)))
        crc = crc32c(data, threads=available_threads())
        return Part(file=self.file, offset=offset, nbytes=data.nbytes, crc32c=crc, sha256=sha256_of(data))

    def close(self) -> None:
        """Close the file, whatever became of it."""
        self.stream.close()

    def entry(self) -> FileEntry:
        """The finished file's record."""
        return FileEntry(sha256=self.digest.hexdigest(), nbytes=self.position)


class ArtifactWriter:
    """A context manager: add every tensor of `config` in the order of `expected_tensors`, then `finish`.

    Leaving the context without `finish`, by an exception or not, removes everything written.
    Entering raises OutputExistsError if `path` exists (unless `force`, and it is an artifact with nothing
    else in it), and OutputNotWritableError if it cannot be created.
    """

    def __init__(self, path: str | Path, config: ModelConfig, *, force: bool = False) -> None:
        self.config = config
        self.staging = StagingDirectory(Path(path), force=force, objection=objection_to_replacing)
        self.waiting = list(expected_tensors(config).items())[::-1]
        self.tensors: dict[str, TensorEntry] = {}
        self.files: dict[str, FileEntry] = {}
        self.writers: dict[TensorFile, TensorFileWriter] = {}

    @property
    def path(self) -> Path:
        """Where the artifact will stand."""
        return self.staging.target

    def __enter__(self) -> ArtifactWriter:
        try:
            self.staging.create()
            self.writer_of(TENSORS_FILE)
        except BaseException:
            self.staging.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers.values():
            with suppress(OSError):  # a full disk, said already; nothing of the file is kept
                writer.close()
        self.staging.discard()

    def add_matrix(self, name: str, encoded: Encoded) -> None:
        """Write the next tensor, a matrix.

        Raises MissingTensorError out of order, TensorShapeError for another shape than the configuration's.
        """
        shape = self.take(name, (encoded.rows, encoded.columns))
        parts: dict[PartName, NDArray[Any] | None] = {part: getattr(encoded, part) for part in CODED_PARTS}
        records = self.write({"data": encoded.codes} if encoded.scales is None else parts)
        self.tensors[name] = TensorEntry.model_validate(
            {"format": encoded.format, "group_size": encoded.group_size, "shape": shape, "parts": records}
        )

    def add_vector(
        self, name: str, vector: NDArray[np.float32], best: NDArray[np.float32] | None = None
    ) -> None:
        """Write the next tensor, a vector of float32; `best`: its values at the best tier, if they differ.

        Raises NonFiniteWeightError for NaN or Inf, FormatError for another dtype, TensorShapeError.
        """
        if best is not None and np.array_equal(best, vector):
            best = None
        for values in (vector, vector if best is None else best):
            if values.dtype != np.float32:
                raise FormatError(f"{name}: vectors are stored as float32, and this one is {values.dtype}")
            if values.shape != vector.shape:
                raise TensorShapeError(f"{name}: its tiers have shapes {vector.shape} and {values.shape}")
            if not np.isfinite(values).all():
                raise NonFiniteWeightError(
                    f"{name}: NaN or Inf among its elements; the checkpoint is damaged"
                )
        shape = self.take(name, vector.shape)
        records = self.write({"data": vector, "best": best})
        self.tensors[name] = TensorEntry(format="fp32", group_size=0, shape=shape, parts=records)

    def add_file(self, source: str | Path) -> None:
        """Copy a small file, a tokenizer say, under its own name. Raises TokenizerError if unreadable."""
        source = Path(source)
        assert source.name not in OWN_FILES
        try:
            content = source.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"{source}: cannot be read ({error.strerror}); check its permissions"
            ) from None
        target = self.staging.path / source.name
        with output_errors(self.path):
            target.write_bytes(content)
            sync(target)
        digest = hashlib.sha256(content).hexdigest()
        self.files[source.name] = FileEntry(sha256=digest, nbytes=len(content))

    def finish(self, provenance: Provenance) -> Manifest:
        """Write the manifest, flush everything to disk and rename to the target.

        Raises MissingTensorError if a tensor is still to come, ManifestError if a vector differs by tier, and
        no matrix is layered.
        """
        if self.waiting:
            raise MissingTensorError(
                f"{self.path}: {len(self.waiting)} tensors missing, {self.waiting[-1][0]} first"
            )
        with output_errors(self.path):
            for writer in self.writers.values():
                writer.close()
                sync(self.staging.path / writer.file)
                self.files[writer.file] = writer.entry()
            manifest = self.manifest(provenance)
            check_tiers(self.path, manifest)
            path = self.staging.path / MANIFEST_FILE
            path.write_text(manifest.text(), "utf-8")
            sync(path)
        self.staging.publish()
        return manifest

    def manifest(self, provenance: Provenance) -> Manifest:
        """The sealed manifest of what was written."""
        return Manifest(
            config=self.config, tensors=self.tensors, files=self.files, provenance=provenance
        ).sealed()

    def take(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the next expected tensor, which must have this name."""
        if not self.waiting or self.waiting[-1][0] != name:
            expected = self.waiting[-1][0] if self.waiting else "nothing more"
            raise MissingTensorError(f"{self.path}: {name} came where {expected} was expected")
        role = self.waiting.pop()[1]
        if role.shape != shape:
            raise TensorShapeError(
                f"{name}: shape {list(shape)}, and the configuration says {list(role.shape)}"
            )
        return role.shape

    def write(self, parts: Mapping[PartName, NDArray[Any] | None]) -> dict[PartName, Part]:
        """Write a tensor's parts; where they lie and their checksums."""
        records: dict[PartName, Part] = {}
        with output_errors(self.path):
            for part, array in parts.items():
                if array is not None:
                    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                    records[part] = self.writer_of(file_of(part)).add(data)
        return records

    def writer_of(self, file: TensorFile) -> TensorFileWriter:
        """The writer of a tensor file, opened when its first part comes."""
        if file not in self.writers:
            with output_errors(self.path):
                self.writers[file] = TensorFileWriter(self.staging.path / file, file)
        return self.writers[file]


def objection_to_replacing(path: Path) -> str | None:
    """Why `force` may not replace a directory; None for an artifact and nothing else, or an empty one."""
    if not path.is_dir():
        return "is not an artifact"
    present = {entry.name for entry in path.iterdir()}
    if not present:
        return None
    listed = listed_files(path / MANIFEST_FILE)
    if listed is None or TENSORS_FILE not in present:
        return "is not an artifact"
    foreign = sorted(present - listed - {MANIFEST_FILE} - BESIDE_THE_MANIFEST)
    return f"holds {foreign[0]!r}, which is no part of the artifact" if foreign else None


def listed_files(path: Path) -> set[str] | None:
    """The files that a manifest lists; None for what is no manifest. One of another version will do."""
    try:
        files = json.loads(path.read_bytes())["files"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return set(files) if isinstance(files, dict) else None
