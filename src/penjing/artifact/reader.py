"""Opens an artifact: checks that all of it is there and as it was written, and hands out views of the map."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.checksum import available_threads, crc32c, sha256_of, sha256_of_file
from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.artifact.layout import (
    ALIGNMENT,
    RESIDUAL_FILE,
    TENSORS_FILE,
    TensorFile,
    expected_parts,
    file_of,
    header,
)
from penjing.artifact.manifest import Manifest, Part, TensorEntry, read_manifest
from penjing.errors import (
    ChecksumError,
    ManifestError,
    MissingTensorError,
    NonFiniteScaleError,
    TensorShapeError,
)
from penjing.formats import Encoded
from penjing.spec import Tier

FLOAT16_EXPONENT = np.uint16(0x7C00)  # all ones: NaN or Inf
Verification = Literal["crc", "sha256", "none"]


class Artifact:
    """An artifact on disk, mapped into memory; matrices and vectors are read-only views of the map.

    Make one with `Artifact.open`. `hash` identifies it; `tiers` are the precisions it can run at, slowest last.
    """

    def __init__(self, path: Path, manifest: Manifest, maps: dict[TensorFile, NDArray[np.uint8]]) -> None:
        self.path = path
        self.manifest = manifest
        self.maps = maps

    @classmethod
    def open(cls, path: str | Path, *, verify: Verification = "crc") -> Artifact:
        """Open and check an artifact.

        verify: `crc` compares every tensor's CRC32C (about memory speed), `sha256` the hash of every file and
        tensor as well, `none` leaves bytes unread; structure, scales and vectors are checked in any case.
        Raises a subclass of ArtifactError that names the file or tensor.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        check_tensor_table(directory, manifest)
        maps = {file: map_file(directory, file, manifest) for file in tensor_files(manifest)}
        artifact = cls(directory, manifest, maps)
        if verify != "none":
            artifact.check_sidecars()
            artifact.check_parts(verify)
        artifact.check_numbers()
        return artifact

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.manifest.config

    @property
    def hash(self) -> str:
        """SHA-256 (hex) that identifies the artifact."""
        return self.manifest.hash

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """`best`, and `fast` before it if any tensor is layered."""
        return ("fast", "best") if RESIDUAL_FILE in self.maps else ("best",)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, padding included: the length of tensors.bin and residual.bin."""
        return self.tier_bytes("best")

    def tier_bytes(self, tier: Tier) -> int:
        """Bytes that a tier reads: `fast` reads nothing of residual.bin."""
        files = [TENSORS_FILE] if tier == "fast" else list(self.maps)
        return sum(self.maps[file].nbytes for file in files)

    def matrix(self, name: str) -> Encoded:
        """A matrix by canonical name, without copying. Raises MissingTensorError for an unknown name."""
        entry = self.entry(name)
        views = {part: self.view(record) for part, record in entry.parts.items()}
        scales = views["scales"].view(np.uint16) if "scales" in views else None
        codes = views["data"] if scales is None else views["codes"]
        rows, columns = entry.shape
        return Encoded(entry.format, rows, columns, entry.group_size, codes, scales, views.get("residual"))

    def vector(self, name: str) -> NDArray[np.float32]:
        """A vector by canonical name, float32, without copying. Raises MissingTensorError for an unknown name."""
        return self.view(self.entry(name).parts["data"]).view(np.float32)

    def entry(self, name: str) -> TensorEntry:
        """A tensor's row in the manifest."""
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise MissingTensorError(f"{self.path}: holds no tensor {name}") from None

    def view(self, part: Part) -> NDArray[np.uint8]:
        """A part's bytes."""
        return self.maps[part.file][part.offset : part.offset + part.nbytes]

    def check_sidecars(self) -> None:
        """Compare the SHA-256 of the tokenizer and its like. Raises ChecksumError."""
        for name, record in self.manifest.files.items():
            if name not in self.maps and file_sha256(self.path, name) != record.sha256:
                raise ChecksumError(f"{self.path / name}: was changed after it was written; restore it")

    def check_parts(self, verify: Verification) -> None:
        """Compare the checksum of every part. Raises ChecksumError naming the tensor."""
        threads = available_threads()
        for name, entry in self.manifest.tensors.items():
            for part, record in entry.parts.items():
                view = self.view(record)
                same = crc32c(view, threads) == record.crc32c
                if verify == "sha256":
                    same = same and sha256_of(view) == record.sha256
                if not same:
                    raise ChecksumError(
                        f"{self.path / record.file}: {part} of {name} do not match their checksum; "
                        "the file is damaged, copy or write it again"
                    )

    def check_numbers(self) -> None:
        """Refuse NaN and Inf. Raises NonFiniteScaleError naming the tensor."""
        for name, entry in self.manifest.tensors.items():
            if len(entry.shape) == 1 and not np.isfinite(self.vector(name)).all():
                raise NonFiniteScaleError(
                    f"{self.path}: NaN or Inf in the vector {name}; write the artifact again"
                )
            if "scales" in entry.parts:
                bits = self.view(entry.parts["scales"]).view(np.uint16)
                if ((bits & FLOAT16_EXPONENT) == FLOAT16_EXPONENT).any():
                    raise NonFiniteScaleError(
                        f"{self.path}: NaN or Inf among the scales of {name}; write the artifact again"
                    )


def tensor_files(manifest: Manifest) -> list[TensorFile]:
    """tensors.bin, and residual.bin if a tensor is layered."""
    used = {part.file for entry in manifest.tensors.values() for part in entry.parts.values()}
    files: list[TensorFile] = [TENSORS_FILE, RESIDUAL_FILE]
    return [file for file in files if file in used]


def file_sha256(directory: Path, name: str) -> str:
    """SHA-256 of one of the artifact's files, or ChecksumError if it cannot be read."""
    if Path(name).name != name:
        raise ManifestError(f"{directory}: the manifest lists a file outside the artifact: {name!r}")
    try:
        return sha256_of_file(directory / name)
    except OSError as error:
        raise ChecksumError(f"{directory / name}: cannot be read ({error.strerror}); restore it") from None


def check_tensor_table(directory: Path, manifest: Manifest) -> None:
    """Every expected tensor and no other, with the shape the configuration says, its parts whole and apart."""
    expected = expected_tensors(manifest.config)
    missing = [name for name in expected if name not in manifest.tensors]
    extra = [name for name in manifest.tensors if name not in expected]
    if missing or extra:
        what = f"lacks the tensor {missing[0]}" if missing else f"holds an unexpected tensor {extra[0]}"
        raise MissingTensorError(f"{directory}: {what}; write the artifact again")
    for name, role in expected.items():
        check_entry(directory, name, role.shape, manifest.tensors[name])
    check_overlaps(directory, manifest)


def check_entry(directory: Path, name: str, shape: tuple[int, ...], entry: TensorEntry) -> None:
    """A tensor's shape, and the file, size and alignment of its parts. Raises TensorShapeError or ManifestError."""
    if entry.shape != shape:
        raise TensorShapeError(
            f"{directory}: {name} is {list(entry.shape)}, and the configuration says {list(shape)}; "
            "write the artifact again"
        )
    grouped = entry.format in ("int8", "int4", "layered")
    if grouped != (entry.group_size > 0) or (len(shape) == 1 and entry.format != "fp32"):
        raise ManifestError(f"{directory}: {name} cannot be {entry.format} in groups of {entry.group_size}")
    sizes = expected_parts(entry.format, entry.group_size, shape)
    stored = {part: record.nbytes for part, record in entry.parts.items()}
    if stored != sizes:
        raise TensorShapeError(f"{directory}: parts of {name} are {stored} bytes, and {sizes} are expected")
    for part, record in entry.parts.items():
        if record.file != file_of(part) or record.offset % ALIGNMENT:
            raise ManifestError(
                f"{directory}: {part} of {name} may not lie at {record.offset} of {record.file}"
            )


def check_overlaps(directory: Path, manifest: Manifest) -> None:
    """No part inside the header, in another part, or past the end of its file. Raises ManifestError."""
    spans: list[tuple[TensorFile, int, int, str]] = []
    for name, entry in manifest.tensors.items():
        spans += [(part.file, part.offset, part.offset + part.nbytes, name) for part in entry.parts.values()]
    ends: dict[TensorFile, int] = {}
    for file, begin, end, name in sorted(spans):
        record = manifest.files.get(file)
        if begin < ends.get(file, ALIGNMENT) or record is None or end > record.nbytes:
            raise ManifestError(f"{directory}: {name} overlaps another tensor or the end of {file}")
        ends[file] = end


def map_file(directory: Path, file: TensorFile, manifest: Manifest) -> NDArray[np.uint8]:
    """Map a tensor file, read-only. Raises MissingTensorError, or ChecksumError for its size or header."""
    path = directory / file
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != manifest.files[file].nbytes:
                raise ChecksumError(
                    f"{path}: {size} bytes, and the manifest says {manifest.files[file].nbytes}; copy it again"
                )
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise MissingTensorError(
            f"{path}: is missing, and tensors are in it; copy the whole directory"
        ) from None
    except OSError as error:
        raise MissingTensorError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    view = np.frombuffer(mapped, np.uint8)
    if view[:ALIGNMENT].tobytes() != header(file):
        raise ChecksumError(f"{path}: its header is not that of format version 1; copy the file again")
    return view
