"""One verb for bytes, certificate and measuring again."""

from __future__ import annotations

from pathlib import Path

import pytest

from penjing.artifact import Artifact
from penjing.artifact.reader import sha256_of_file
from penjing.errors import CertificateError, ChecksumError, SpecError
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.verify import Verified, verify


def test_without_a_certificate_it_is_the_bytes(int8: Artifact) -> None:
    assert verify(int8.path) == Verified(hash=int8.hash, certificate=None, remeasured=None)


def test_with_a_certificate_every_byte_is_read_once(
    certified: Path, int8: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def remember(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of_file(path)

    monkeypatch.setattr("penjing.artifact.verify.sha256_of_file", remember)
    found = verify(certified)
    assert found.hash == int8.hash
    assert found.certificate is not None
    assert found.remeasured is None
    assert hashed == ["tensors.bin"]


def test_it_measures_again(certified: Path, checkpoint: Path, own_text: Path, evaluation: Evaluation) -> None:
    found = verify(certified, against=checkpoint, data=own_text, threads=1)
    assert found.remeasured is not None
    assert found.remeasured.comparison == evaluation.comparison


def test_half_a_question_is_refused(
    certified: Path, int8: Artifact, checkpoint: Path, own_text: Path
) -> None:
    for half in ({"against": checkpoint}, {"data": own_text}):
        with pytest.raises(SpecError, match="both"):
            verify(certified, **half)
    with pytest.raises(CertificateError, match="has no certificate"):
        verify(int8.path, against=checkpoint, data=own_text)


def test_damage_is_found_with_a_certificate_too(certified: Path) -> None:
    file = certified / "tensors.bin"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ChecksumError):
        verify(certified)
