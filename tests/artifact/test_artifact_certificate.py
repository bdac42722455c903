from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from artifact_samples import write_artifact
from pydantic import ValidationError

from penjing.artifact import (
    Artifact,
    Certificate,
    Measured,
    MeasuredOn,
    read_certificate,
    verify_artifact,
    write_certificate,
)
from penjing.errors import ArtifactNotFoundError, CertificateError, OutputNotWritableError
from penjing.spec import Budget


def measured(**changes: Any) -> Measured:
    values: dict[str, Any] = {
        "tier": "best",
        "artifact_bytes": 300,
        "checkpoint_bytes": 1000,
        "size_ratio": 0.3,
        "mean_delta_nll": 0.011,
        "upper_delta_nll": 0.018,
        "confidence": 0.95,
        "tokens": 1000,
        "documents": 12,
        "unit": "document",
        "units": 12,
        "reference_perplexity": 8.0,
        "candidate_perplexity": 8.1,
        "mean_kl": 0.01,
        "p99_kl": 0.2,
        "max_kl": 1.5,
        "top1_agreement": 0.97,
        "data_name": "held-out",
        "data_hash": "1" * 64,
    }
    return Measured(**values | changes)


def certificate(artifact: Artifact) -> Certificate:
    return Certificate(
        artifact_hash=artifact.hash,
        source_name="random",
        source_hash="0" * 64,
        budget=Budget(max_size=0.35, max_loss=0.02),
        measured=measured(),
        measured_on=MeasuredOn(cpu_model="some CPU", isa="avx2", threads=2),
        reference_kv="fp32",
        seed=0,
        versions={"penjing": "0"},
        issued_at="2026-01-01T00:00:00Z",
    )


def test_round_trip_leaves_the_artifact_s_hash_alone(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray")
    artifact = Artifact.open(path)
    with pytest.raises(CertificateError, match="has no certificate"):
        read_certificate(path)
    write_certificate(path, certificate(artifact))
    assert read_certificate(path) == certificate(artifact)
    assert verify_artifact(path).hash == artifact.hash
    write_certificate(path, certificate(artifact))
    assert sorted(file.name for file in path.iterdir()) == [
        "certificate.json",
        "manifest.json",
        "tensors.bin",
    ]


def test_another_artifact_s_certificate(tmp_path: Path) -> None:
    one, two = write_artifact(tmp_path / "one"), write_artifact(tmp_path / "two", seed=1)
    path = write_certificate(one, certificate(Artifact.open(one)))
    with pytest.raises(CertificateError, match="another artifact"):
        write_certificate(two, certificate(Artifact.open(one)))
    (two / "certificate.json").write_bytes(path.read_bytes())
    with pytest.raises(CertificateError, match="another artifact"):
        read_certificate(two)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\xff", '{"certificate_version": 2}', "[" * 100_000])
def test_malformed(tmp_path: Path, text: str) -> None:
    path = write_artifact(tmp_path / "tray")
    (path / "certificate.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CertificateError, match=r"certificate\.json") as caught:
        read_certificate(path)
    assert "\n" not in str(caught.value)


def test_numbers_must_be_finite() -> None:
    with pytest.raises(ValidationError):
        measured(mean_kl=float("nan"))


def test_no_artifact_or_no_place(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray")
    issued = certificate(Artifact.open(path))
    with pytest.raises(ArtifactNotFoundError):
        write_certificate(tmp_path, issued)
    (path / "certificate.json").mkdir()
    with pytest.raises(OutputNotWritableError):
        write_certificate(path, issued)
    with pytest.raises(CertificateError):
        read_certificate(path)
    assert not [file for file in path.iterdir() if "partial" in file.name]
