"""report.json: what a search asked, tried and found, beside the certificate that it led to.

As the certificate, it may differ between two runs (times, speeds, the machine), so the artifact's hash does
not cover it; it names the artifact by that hash instead. `report` turns it into a page and a model card, and
needs nothing else. What no search found out is absent (None, or empty), and its section is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from penjing.artifact import is_artifact
from penjing.artifact.certificate import Certificate, Sha256, read_certificate, read_claim
from penjing.artifact.layout import CERTIFICATE_FILE, REPORT_FILE
from penjing.artifact.manifest import read_manifest
from penjing.artifact.staging import replace_file
from penjing.errors import RecordError
from penjing.optimize.documents import TextRecord
from penjing.optimize.evaluation import Host
from penjing.optimize.record_parts import (
    Claim,
    Commands,
    Errors,
    Figures,
    Layer,
    Limit,
    LimitName,
    ModelRecord,
    Objective,
    Point,
    Positive,
    RooflineRecord,
    Sample,
    Span,
)
from penjing.spec import Budget, Spec, canonical_json


class SearchRecord(Spec):
    """All that a report needs. price_per_hour: of the machine, where the objective is cost.

    text: what the frontier was measured on, None without one; the claim's text is in the certificate.
    binding: the limit that cannot be kept with the others, of an infeasible budget.
    """

    record_version: Literal[1] = 1
    model: ModelRecord
    artifact_hash: Sha256 | None = None
    budget: Budget
    limits: tuple[Limit, ...] = ()
    objective: Objective = "size"
    price_per_hour: Positive | None = None
    outcome: Literal["kept", "infeasible"]
    binding: LimitName | None = None
    before: Figures
    after: Figures | None = None
    claim: Claim | None = None
    frontier: tuple[Point, ...] = ()
    layers: tuple[Layer, ...] = ()
    roofline: RooflineRecord | None = None
    time: tuple[Span, ...] = ()
    errors: Errors | None = None
    samples: tuple[Sample, ...] = ()
    stages: tuple[Span, ...] = ()
    commands: Commands | None = None
    text: TextRecord | None = None
    host: Host | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def check_outcome(self) -> Self:
        """A budget that was kept has a certificate that says the same; an infeasible one has none."""
        held = (self.artifact_hash, self.after, self.claim, self.certificate)
        if self.outcome == "infeasible":
            if self.binding is None or any(part is not None for part in held):
                raise ValueError(
                    "an infeasible budget has a binding limit, and no artifact, claim or figures"
                )
            return self
        if self.after is None or self.claim is None or self.certificate is None:
            raise ValueError("a budget that was kept has figures, a claim and a certificate")
        if not self.agrees_with(self.certificate):
            raise ValueError("its numbers are not those of its certificate")
        return self

    def agrees_with(self, certificate: Certificate) -> bool:
        """Whether the numbers that are claimed here are those that were certified."""
        assert self.after is not None
        assert self.claim is not None
        measured = certificate.measured
        claimed = (self.artifact_hash, self.model.source_hash, self.budget, self.after.tensor_bytes)
        proved = (certificate.artifact_hash, certificate.source_hash, certificate.budget)
        return (*claimed, self.claim.mean_nats, self.claim.upper_nats, self.claim.confidence) == (
            *proved,
            measured.artifact_bytes,
            measured.mean_delta_nll,
            measured.upper_delta_nll,
            measured.confidence,
        )


def write_record(path: str | Path, record: SearchRecord) -> Path:
    """Write a record into its artifact, replacing an older one; an infeasible budget's to a file.

    Returns the file. Raises RecordError if it is another artifact's, OutputNotWritableError.
    """
    file = record_file(path)
    check_artifact(file, record)
    replace_file(file, canonical_json(record) + "\n")
    return file


def read_record(path: str | Path) -> SearchRecord:
    """The record of an artifact, or of a file. Raises RecordError: absent, malformed, or another's."""
    file = record_file(path)
    record = read_claim(SearchRecord, file, RecordError)
    check_artifact(file, record)
    return record


def record_file(path: str | Path) -> Path:
    """Where a record lies: in an artifact under its own name, or else just there."""
    return Path(path) / REPORT_FILE if Path(path).is_dir() else Path(path)


def check_artifact(file: Path, record: SearchRecord) -> None:
    """Whether a record that lies in an artifact speaks of it, and says what its certificate says."""
    directory = file.parent
    if file.name != REPORT_FILE or not is_artifact(directory):
        return
    if record.artifact_hash != read_manifest(directory).hash:
        raise RecordError(f"{file}: is of another artifact; `penjing optimize` writes the right one")
    if (directory / CERTIFICATE_FILE).exists() and not record.agrees_with(read_certificate(directory)):
        raise RecordError(f"{file}: contradicts the certificate beside it; optimize again")
