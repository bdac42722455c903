"""The directory on disk: manifest, tensors, checksums, certificate (docs/artifact.md).

What only makes or certifies artifacts is loaded on first use: what serves does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penjing.artifact.config import (
    BlockConfig,
    ModelConfig,
    RopeConfig,
    TensorRole,
    block_tensors,
    expected_tensors,
)
from penjing.artifact.manifest import Manifest, Provenance, Source
from penjing.artifact.reader import Artifact, is_artifact

if TYPE_CHECKING:
    from penjing.artifact.certificate import (
        Certificate,
        Measured,
        MeasuredOn,
        MeasuredSpeed,
        read_certificate,
        write_certificate,
    )
    from penjing.artifact.verify import verify_artifact
    from penjing.artifact.writer import ArtifactWriter

_HOMES = {
    "ArtifactWriter": "writer",
    "Certificate": "certificate",
    "Measured": "certificate",
    "MeasuredOn": "certificate",
    "MeasuredSpeed": "certificate",
    "read_certificate": "certificate",
    "verify_artifact": "verify",
    "write_certificate": "certificate",
}

__all__ = [
    "Artifact",
    "ArtifactWriter",
    "BlockConfig",
    "Certificate",
    "Manifest",
    "Measured",
    "MeasuredOn",
    "MeasuredSpeed",
    "ModelConfig",
    "Provenance",
    "RopeConfig",
    "Source",
    "TensorRole",
    "block_tensors",
    "expected_tensors",
    "is_artifact",
    "read_certificate",
    "verify_artifact",
    "write_certificate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
