"""Certificates: issued from what was measured, refused for anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penjing.artifact import Artifact, read_certificate
from penjing.artifact.layout import CERTIFICATE_FILE
from penjing.errors import CertificateError, ChecksumError
from penjing.optimize.certificate import issue_certificate, verify_certificate
from penjing.optimize.evaluate import evaluate
from penjing.optimize.evaluation import Evaluation
from penjing.spec import Budget, canonical_json


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = path / CERTIFICATE_FILE
    data = json.loads(file.read_text())
    change(data)
    file.write_text(canonical_json(data) + "\n")


def test_numbers_are_those_of_the_evaluation(certified: Path, evaluation: Evaluation, int8: Artifact) -> None:
    measured = read_certificate(certified).measured
    compared = evaluation.compared
    assert measured.artifact_bytes == int8.tensor_bytes
    assert measured.size_ratio == compared.size_ratio
    assert (measured.mean_delta_nll, measured.upper_delta_nll) == (compared.bound.mean, compared.bound.upper)
    assert measured.data_hash == evaluation.text.sha256
    assert measured.tokens == evaluation.tokens


def test_it_verifies_and_holds_when_measured_again(
    certified: Path, checkpoint: Path, own_text: Path, evaluation: Evaluation
) -> None:
    assert verify_certificate(certified).remeasured is None
    again = verify_certificate(certified, data=own_text, against=checkpoint, threads=2).remeasured
    assert again is not None
    assert again.comparison == evaluation.comparison


def test_a_missed_budget_gets_none(int8: Artifact, evaluation: Evaluation) -> None:
    for budget, complaint in (
        (Budget(max_size=0.1), "the size is"),
        (Budget(max_loss=1e-9), "the loss bound is"),
        (Budget(max_size=0.5, confidence=0.99), "confidence"),
    ):
        with pytest.raises(CertificateError, match=complaint):
            issue_certificate(evaluation, int8, budget, text_part="all", token_limit=None)


def test_another_artifact_gets_none(layered: Artifact, evaluation: Evaluation) -> None:
    with pytest.raises(CertificateError, match="another artifact"):
        issue_certificate(evaluation, layered, Budget(max_size=0.5), text_part="all", token_limit=None)


def test_another_reference_gets_none(layered: Artifact, int8: Artifact, own_text: Path) -> None:
    """A loss against an artifact that is damaged itself proves nothing about the checkpoint."""
    flattering = evaluate(int8.path, layered.path, own_text, threads=1, speed=False)
    with pytest.raises(CertificateError, match="not measured against the checkpoint"):
        issue_certificate(flattering, int8, Budget(max_size=0.5), text_part="all", token_limit=None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data["measured"].update(upper_delta_nll=0.5), "loss bound is 0.5"),
        (lambda data: data["measured"].update(artifact_bytes=7), "7 bytes of tensors"),
        (lambda data: data["measured"].update(size_ratio=0.01), "contradicts its bytes"),
        (lambda data: data["measured"].update(confidence=0.6), "confidence"),
        (lambda data: data["budget"].update(max_size=0.001), "above 0.10%"),
        (lambda data: data.update(artifact_hash="0" * 64), "another artifact"),
    ],
)
def test_an_edited_certificate_is_refused(
    certified: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    edit(certified, change)
    with pytest.raises(CertificateError, match=complaint):
        verify_certificate(certified)


def test_a_flattering_edit_is_found_by_measuring(certified: Path, checkpoint: Path, own_text: Path) -> None:
    edit(certified, lambda data: data["measured"].update(upper_delta_nll=-1.0))
    verify_certificate(certified)
    with pytest.raises(CertificateError, match="measured again"):
        verify_certificate(certified, data=own_text, against=checkpoint, threads=1)


def test_other_text_is_refused(certified: Path, checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(own_text.read_text().replace("a", "b"))
    with pytest.raises(CertificateError, match="is not the text"):
        verify_certificate(certified, data=other, against=checkpoint)


def test_a_damaged_artifact_is_refused(certified: Path) -> None:
    file = certified / "tensors.bin"
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    with pytest.raises(ChecksumError):
        verify_certificate(certified)
