"""The directory on disk: manifest, tensors, checksums, certificate (docs/artifact.md)."""

from penjing.artifact.config import (
    BlockConfig,
    ModelConfig,
    RopeConfig,
    TensorRole,
    block_tensors,
    expected_tensors,
)
from penjing.artifact.manifest import Manifest, Provenance, Source
from penjing.artifact.reader import Artifact
from penjing.artifact.writer import ArtifactWriter

__all__ = [
    "Artifact",
    "ArtifactWriter",
    "BlockConfig",
    "Manifest",
    "ModelConfig",
    "Provenance",
    "RopeConfig",
    "Source",
    "TensorRole",
    "block_tensors",
    "expected_tensors",
]
