"""certificate.json: the measured claim that an artifact meets its budget.

Everything that may differ between two runs (times, speeds, the machine) lives here and not in the manifest,
so the artifact's hash does not cover it; the certificate names the artifact by that hash instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from penjing.artifact.layout import CERTIFICATE_FILE
from penjing.artifact.manifest import HEX_SHA256, read_manifest
from penjing.artifact.staging import replace_file
from penjing.errors import CertificateError, PenjingError
from penjing.spec import Budget, Kv, Spec, Tier, canonical_json, describe
from penjing.spec.base import S

Finite = Annotated[float, Field(allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=HEX_SHA256)]
TextPart = Literal["all", "report"]


class Measured(Spec):
    """What was found at one tier, as served. NLL and KL are in nats per token, over `tokens` tokens.

    size_ratio: artifact_bytes / checkpoint_bytes. upper_delta_nll: the one-sided bound of mean_delta_nll at
    `confidence`, from resampling `units` documents or blocks of tokens. data_hash: SHA-256 of the text.
    window_tokens: the longest context scored. token_limit: how much of the data was read, None for all of it;
    text_part: whether all of that was scored, or the part kept apart from every choice. looks: of a claim
    that could stop early, the numbers of units at which it was looked at; margin: what was claimed then.
    """

    tier: Tier
    artifact_bytes: int = Field(gt=0)
    checkpoint_bytes: int = Field(gt=0)
    size_ratio: Finite
    mean_delta_nll: Finite
    upper_delta_nll: Finite
    confidence: Finite
    tokens: int = Field(gt=0)
    documents: int = Field(gt=0)
    unit: Literal["document", "block"]
    units: int = Field(gt=0)
    reference_perplexity: Finite
    candidate_perplexity: Finite
    mean_kl: Finite
    p99_kl: Finite
    max_kl: Finite
    top1_agreement: Finite
    data_name: str
    data_hash: Sha256
    window_tokens: int = Field(default=512, gt=1)
    token_limit: int | None = Field(default=None, gt=0)
    text_part: TextPart = "all"
    margin: Finite | None = None
    looks: tuple[int, ...] = ()


class MeasuredOn(Spec):
    """The machine that the measurement ran on."""

    cpu_model: str
    isa: str
    threads: int = Field(gt=0)


class MeasuredSpeed(Spec):
    """Tokens a second of one sequence: `prefill` reads a prompt, `decode` writes one token at a time."""

    prefill_tokens_per_second: Finite
    decode_tokens_per_second: Finite


class MeasuredLoad(Spec):
    """`streams` requests at once, each a prompt and an answer.

    seconds_per_token: between two tokens of one answer, the median, and what 95% are below.
    tokens_per_second: decoded, of all together. peak_memory_bytes: of the process that serves them.
    """

    streams: int = Field(gt=0)
    prompt_tokens: int = Field(gt=0)
    output_tokens: int = Field(gt=0)
    seconds_per_token: Finite
    p95_seconds_per_token: Finite
    tokens_per_second: Finite
    peak_memory_bytes: int = Field(gt=0)


class Certificate(Spec):
    """A claim (`budget`), what was measured against it, and all that is needed to measure it again.

    source_name: the repository, or None for a directory. issued_at: UTC, ISO 8601. peak_memory_bytes: of a
    process that serves the artifact alone. load: what limits of speed and memory were held against.
    costs_hash: SHA-256 of the table of this machine's costs that the choice was made by, where it was.
    """

    certificate_version: Literal[1] = 1
    artifact_hash: Sha256
    source_name: str | None = None
    source_hash: Sha256
    budget: Budget
    measured: Measured
    measured_on: MeasuredOn
    speed: MeasuredSpeed | None = None
    peak_memory_bytes: int | None = None
    load: MeasuredLoad | None = None
    costs_hash: Sha256 | None = None
    reference_kv: Kv
    seed: int = Field(ge=0)
    versions: dict[str, str]
    issued_at: str


def write_certificate(directory: str | Path, certificate: Certificate) -> Path:
    """Put a certificate into its artifact, replacing an older one whole.

    Raises CertificateError if it is another artifact's, OutputNotWritableError if it cannot be written.
    """
    check_artifact(Path(directory), certificate)
    path = Path(directory) / CERTIFICATE_FILE
    replace_file(path, canonical_json(certificate) + "\n")
    return path


def read_certificate(directory: str | Path) -> Certificate:
    """The certificate of an artifact. Raises CertificateError if it is absent, malformed, or another's."""
    certificate = read_claim(Certificate, Path(directory) / CERTIFICATE_FILE, CertificateError)
    check_artifact(Path(directory), certificate)
    return certificate


def read_claim(kind: type[S], file: Path, failure: type[PenjingError]) -> S:
    """What `penjing optimize` wrote beside an artifact. Raises `failure`: absent, malformed."""
    try:
        return kind.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise failure(f"{file.parent}: has no {file.name}; `penjing optimize` writes one") from None
    except ValidationError as error:
        raise failure(f"{file}: {describe(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise failure(f"{file}: cannot be read ({error})") from None


def check_artifact(directory: Path, certificate: Certificate) -> None:
    """Whether the certificate speaks of this artifact and its source."""
    manifest = read_manifest(directory)
    claimed = (certificate.artifact_hash, certificate.source_hash)
    if claimed != (manifest.hash, manifest.provenance.source.hash):
        raise CertificateError(
            f"{directory}: the certificate belongs to another artifact; measure this one again"
        )
