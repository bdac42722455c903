"""Opens an artifact: checks that all of it is there and as it was written, and hands out views of tensors."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.artifact.checksum import available_threads, sha256_of, sha256_of_file
from penjing.artifact.config import ModelConfig, expected_tensors
from penjing.artifact.layout import (
    ALIGNMENT,
    FORMAT_VERSION,
    MANIFEST_FILE,
    RESIDUAL_FILE,
    TENSORS_FILE,
    TensorFile,
    header,
)
from penjing.artifact.manifest import Manifest, Part, TensorEntry, read_manifest
from penjing.artifact.structure import check_structure, tensor_files
from penjing.errors import (
    CapacityError,
    ChecksumError,
    MissingTensorError,
    NonFiniteScaleError,
    UnsupportedConfigError,
)
from penjing.formats import Encoded
from penjing.kernels import crc32c_each
from penjing.kernels.memory import huge_memory
from penjing.spec import TIERS, Tier

PIECE_BYTES = 8 << 20
FLOAT16_EXPONENT = np.uint16(0x7C00)  # all ones: NaN or Inf
Verification = Literal["crc", "sha256", "none"]


class Artifact:
    """An artifact on disk; matrices and vectors are read-only views of its files, mapped or read into memory.

    Make one with `Artifact.open`. `hash` identifies it.
    """

    def __init__(self, path: Path, manifest: Manifest, files: dict[TensorFile, NDArray[np.uint8]]) -> None:
        self.path = path
        self.manifest = manifest
        self.files = files

    @classmethod
    def open(cls, path: str | Path, *, verify: Verification = "crc", in_memory: bool = False) -> Artifact:
        """Open and check an artifact.

        verify: `crc` compares every tensor's CRC32C (about memory speed), `sha256` the hash of every file and
        tensor as well, `none` leaves bytes unread; structure, scales and vectors are checked in any case.
        in_memory: read all of it into huge pages, as is worth while for what computes with it again and
        again; otherwise it is mapped, and read where it is looked at.
        Raises a subclass of ArtifactError that names the file or tensor.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        check_structure(directory, manifest)
        files = {file: load_file(directory, file, manifest, in_memory) for file in tensor_files(manifest)}
        artifact = cls(directory, manifest, files)
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
        return TIERS if RESIDUAL_FILE in self.files else ("best",)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, padding included: the length of tensors.bin and residual.bin."""
        return self.tier_bytes("best")

    def tier_bytes(self, tier: Tier) -> int:
        """Bytes that a tier reads: `fast` reads nothing of residual.bin."""
        files = [TENSORS_FILE] if tier == "fast" else list(self.files)
        return sum(self.files[file].nbytes for file in files)

    def matrix(self, name: str) -> Encoded:
        """A matrix by canonical name, without copying. Raises MissingTensorError."""
        entry = self.entry(name)
        views = {part: self.view(record) for part, record in entry.parts.items()}
        rows, columns = entry.shape
        return Encoded(
            entry.format,
            rows,
            columns,
            entry.group_size,
            codes=views["codes" if "codes" in views else "data"],
            scales=views["scales"].view(np.uint16) if "scales" in views else None,
            residual=views.get("residual"),
            high=views.get("high"),
            zeros=views.get("zeros"),
            table=views["table"].view(np.int8) if "table" in views else None,
        )

    def vector(self, name: str, tier: Tier | None = None) -> NDArray[np.float32]:
        """A vector by canonical name, float32, without copying, as `tier` reads it.

        Raises MissingTensorError, or UnsupportedConfigError if the vector differs by tier and none is named:
        what reads one value for all tiers cannot run this artifact.
        """
        parts = self.entry(name).parts
        if "best" in parts and tier is None:
            raise UnsupportedConfigError(
                f"{self.path}: {name} differs between the tiers fast and best, "
                "which is not supported here; make the artifact without tuning its norms and biases"
            )
        part = parts["best"] if "best" in parts and tier == "best" else parts["data"]
        return self.view(part).view(np.float32)

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Every tensor's name and row in the manifest, in the order of the file."""
        return ((name, self.entry(name)) for name in expected_tensors(self.config))

    def entry(self, name: str) -> TensorEntry:
        """A tensor's row in the manifest."""
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise MissingTensorError(f"{self.path}: holds no tensor {name}") from None

    def view(self, part: Part) -> NDArray[np.uint8]:
        """A part's bytes."""
        return self.files[part.file][part.offset : part.offset + part.nbytes]

    def check_sidecars(self) -> None:
        """Compare the SHA-256 of the tokenizer and its like. Raises ChecksumError."""
        for name, record in self.manifest.files.items():
            if name not in self.files and file_sha256(self.path / name) != record.sha256:
                raise ChecksumError(f"{self.path / name}: was changed after it was written; restore it")

    def check_parts(self, verify: Verification) -> None:
        """Compare the checksum of every part. Raises ChecksumError naming the tensor."""
        parts = [(name, *item) for name, entry in self.entries() for item in entry.parts.items()]
        checksums = crc32c_each([self.view(record) for _, _, record in parts], available_threads())
        for (name, part, record), checksum in zip(parts, checksums, strict=True):
            same = checksum == record.crc32c
            if verify == "sha256":
                same = same and sha256_of(self.view(record)) == record.sha256
            if not same:
                raise ChecksumError(
                    f"{self.path / record.file}: {part} of {name} do not match their checksum; "
                    "the file is damaged, copy or write it again"
                )

    def check_numbers(self) -> None:
        """Refuse NaN and Inf. Raises NonFiniteScaleError naming the tensor."""
        for name, entry in self.entries():
            vectors = [self.vector(name, tier) for tier in TIERS] if len(entry.shape) == 1 else []
            if not all(np.isfinite(vector).all() for vector in vectors):
                raise NonFiniteScaleError(
                    f"{self.path}: NaN or Inf in the vector {name}; write the artifact again"
                )
            if "scales" in entry.parts:
                bits = self.view(entry.parts["scales"]).view(np.uint16)
                if ((bits & FLOAT16_EXPONENT) == FLOAT16_EXPONENT).any():
                    raise NonFiniteScaleError(
                        f"{self.path}: NaN or Inf among the scales of {name}; write the artifact again"
                    )


def is_artifact(path: str | Path) -> bool:
    """Whether this looks like a directory that Penjing wrote."""
    return (Path(path) / MANIFEST_FILE).is_file()


def file_sha256(path: Path) -> str:
    """SHA-256 of one of the artifact's files, or ChecksumError if it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise ChecksumError(f"{path}: cannot be read ({error.strerror}); restore it") from None


def load_file(directory: Path, file: TensorFile, manifest: Manifest, in_memory: bool) -> NDArray[np.uint8]:
    """A tensor file's bytes, read-only.

    Raises MissingTensorError, ChecksumError for its size or header, CapacityError if memory does not hold it.
    """
    path = directory / file
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != manifest.files[file].nbytes:
                raise ChecksumError(
                    f"{path}: has {size} bytes, and {manifest.files[file].nbytes} are expected; copy it again"
                )
            view = read_whole(path, size) if in_memory else map_whole(stream)
    except FileNotFoundError:
        raise MissingTensorError(
            f"{path}: is missing, and tensors are in it; copy the whole directory"
        ) from None
    except OSError as error:
        raise MissingTensorError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except MemoryError:
        raise CapacityError(
            f"{path}: its {size} bytes do not fit this machine's memory; make the model smaller"
        ) from None
    if view[:ALIGNMENT].tobytes() != header(file):
        raise ChecksumError(
            f"{path}: its header is not that of format version {FORMAT_VERSION}; copy the file again"
        )
    return view


def map_whole(stream: BufferedReader) -> NDArray[np.uint8]:
    """A view of the file, whose bytes are read where they are looked at."""
    return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def read_whole(path: Path, size: int) -> NDArray[np.uint8]:
    """A copy of the file in huge pages, read by all threads: memory that nobody had before takes a system
    longer to hand out than to fill. Raises OSError if the file ends early."""
    from concurrent.futures import ThreadPoolExecutor  # who only maps does without

    memory = huge_memory(size)

    def read_piece(begin: int) -> None:
        with path.open("rb", buffering=0) as stream:
            stream.seek(begin)
            end = min(begin + PIECE_BYTES, size)
            while begin < end:
                count = stream.readinto(memory[begin:end].data)
                if not count:
                    raise OSError(errno.EIO, "it ends early")
                begin += count

    with ThreadPoolExecutor(available_threads()) as pool:
        list(pool.map(read_piece, range(0, size, PIECE_BYTES)))
    memory.flags.writeable = False
    return memory
