"""Whether an artifact is as it was written, and whether what its certificate claims holds."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact import verify_artifact
from penjing.artifact.certificate import Certificate
from penjing.artifact.layout import CERTIFICATE_FILE, REPORT_FILE
from penjing.errors import SpecError
from penjing.optimize.certificate import verify_certificate
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.progress import Progress, silent
from penjing.optimize.record import read_record
from penjing.spec import Spec

STAGE = "checksums"


class Verified(Spec):
    """An artifact whose every byte is as written, and what else was checked; None where there is nothing."""

    hash: str
    certificate: Certificate | None
    remeasured: Evaluation | None


def verify(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    data: str | Path | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verified:
    """Check every byte of an artifact, its certificate if it has one, and that a report claims no more.

    With `against` (the checkpoint) and `data` (the text) the certified loss is measured again. Raises
    ArtifactError for damage, CertificateError for a claim that does not hold or is absent when it is to be
    measured, RecordError for a report of something else, SpecError for one of `against` and `data` without
    the other.
    """
    if (against is None) != (data is None):
        raise SpecError("measuring again takes both the checkpoint (against) and the text (data): give both")
    path = Path(artifact)
    progress(STAGE, 0, 1)
    if against is None and not (path / CERTIFICATE_FILE).exists():
        found = Verified(hash=verify_artifact(path).hash, certificate=None, remeasured=None)
    else:
        text = None if data is None else Path(data)
        checked = verify_certificate(path, data=text, against=against, threads=threads, progress=progress)
        found = Verified(
            hash=checked.certificate.artifact_hash,  # held against the manifest's
            certificate=checked.certificate,
            remeasured=checked.remeasured,
        )
    if (path / REPORT_FILE).exists():
        read_record(path)
    progress(STAGE, 1, 1)
    return found
