"""manifest.json: everything about an artifact but its tensor bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from penjing.artifact.config import ModelConfig
from penjing.artifact.layout import FORMAT_VERSION, MANIFEST_FILE, PartName, StoredFormat, TensorFile
from penjing.errors import ArtifactNotFoundError, ManifestError
from penjing.spec import Recipe, Spec, canonical_json, describe

HEX_SHA256 = r"^[0-9a-f]{64}$"


class Part(Spec):
    """One run of bytes. `offset` and `nbytes` count bytes in `file`; `crc32c` is the Castagnoli checksum."""

    file: TensorFile
    offset: int = Field(ge=0)
    nbytes: int = Field(gt=0)
    crc32c: int = Field(ge=0, lt=2**32)
    sha256: str = Field(pattern=HEX_SHA256)


class TensorEntry(Spec):
    """One tensor: [rows, columns] of a matrix or [length] of a vector; group_size is 0 for float formats."""

    format: StoredFormat
    group_size: Literal[0, 32, 64, 128]
    shape: tuple[int, ...] = Field(min_length=1, max_length=2)
    parts: dict[PartName, Part]


class FileEntry(Spec):
    """Any file of the artifact but the manifest and the certificate."""

    sha256: str = Field(pattern=HEX_SHA256)
    nbytes: int = Field(ge=0)


class Source(Spec):
    """The checkpoint that an artifact was made from.

    name, revision: the repository and the commit it was fetched at; None for a directory, so that what it
    happens to be called changes no hash.
    hash: SHA-256 over the configuration and all tensors.
    tensor_bytes: bytes of those tensors in their own dtypes.
    """

    name: str | None = None
    revision: str | None = None
    hash: str = Field(pattern=HEX_SHA256)
    tensor_bytes: int = Field(gt=0)

    @property
    def label(self) -> str:
        """What to call it in texts: the repository, or the first 12 digits of the hash."""
        return self.name or self.hash[:12]


class Provenance(Spec):
    """What must be the same for the bytes to be the same. No timestamp, path or host name.

    calibration: SHA-256 over the token ids that a method with data saw, else None.
    """

    source: Source
    recipe: Recipe
    versions: dict[str, str]
    calibration: str | None = Field(default=None, pattern=HEX_SHA256)


class Manifest(Spec):
    """The whole of manifest.json. `hash` is SHA-256 over the canonical JSON of everything else."""

    format_version: Literal[1] = 1
    kind: Literal["decoder"] = "decoder"
    config: ModelConfig
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]
    provenance: Provenance
    hash: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    def sealed(self) -> Manifest:
        """The same manifest with its hash filled in."""
        return self.model_copy(update={"hash": hash_of(self.model_dump(mode="json"))})

    def text(self) -> str:
        """The one spelling that manifest.json may have."""
        return canonical_json(self) + "\n"


def hash_of(data: dict[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a manifest without its `hash`."""
    rest = {key: value for key, value in data.items() if key != "hash"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Read and check manifest.json; any edit, a space even, is refused.

    Raises ArtifactNotFoundError if there is none, ManifestError if it is not exactly what was written.
    """
    path = directory / MANIFEST_FILE
    data = parse_canonical(path, read_text(path, directory))
    version = data.get("format_version")
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{path}: format version {version!r} is not {FORMAT_VERSION}; use the Penjing that wrote it"
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise ManifestError(f"{path}: {describe(error)}; write the artifact again") from None
    if manifest.hash != hash_of(data):
        raise ManifestError(f"{path}: its hash does not match; it was edited, write the artifact again")
    return manifest


def read_text(path: Path, directory: Path) -> str:
    """The manifest's text; tells a directory without one from a file that cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactNotFoundError(f"{directory}: not an artifact (no {MANIFEST_FILE} in it)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error})") from None


def parse_canonical(path: Path, text: str) -> dict[str, Any]:
    """Parse JSON that must be in canonical form, or raise ManifestError."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ManifestError(f"{path}: not a JSON object; write the artifact again")
        canonical = canonical_json(data) + "\n"
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); write the artifact again") from None
    if canonical != text:
        raise ManifestError(f"{path}: not in canonical form; it was edited, write the artifact again")
    return data
