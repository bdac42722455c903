"""The directory on disk: manifest, tensors, checksums, certificate (docs/artifact.md)."""

from penjing.artifact.certificate import (
    Certificate,
    Measured,
    MeasuredOn,
    MeasuredSpeed,
    read_certificate,
    write_certificate,
)
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
from penjing.artifact.verify import verify_artifact
from penjing.artifact.writer import ArtifactWriter

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
