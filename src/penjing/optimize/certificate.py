"""Issues an artifact's certificate from an evaluation; checks one, by its numbers or by measuring again."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from penjing.artifact import Artifact
from penjing.artifact.certificate import (
    Certificate,
    Measured,
    MeasuredLoad,
    MeasuredOn,
    MeasuredSpeed,
    TextPart,
    read_certificate,
)
from penjing.artifact.verify import verify_artifact
from penjing.errors import CertificateError
from penjing.measure.sequential import SequentialBound
from penjing.optimize.documents import Tokens, read_parts, read_tokens, record_text
from penjing.optimize.evaluate import Settings, evaluate_documents, open_engine
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.progress import Progress, silent
from penjing.optimize.proof import prove
from penjing.optimize.reference import runnable
from penjing.spec import Budget, Spec
from penjing.text import Tokenizer

LoadLimit = Literal["latency", "throughput", "memory"]
REMEASURED_TOLERANCE = 0.002  # nats per token: other instruction sets round float matrices differently


class Verification(Spec):
    """A certificate that held, and the new evaluation if it was measured again."""

    certificate: Certificate
    remeasured: Evaluation | None


def issue_certificate(
    evaluation: Evaluation,
    artifact: Artifact,
    budget: Budget,
    *,
    text_part: TextPart,
    token_limit: int | None,
    claimed: SequentialBound | None = None,
    load: MeasuredLoad | None = None,
    costs_hash: str | None = None,
) -> Certificate:
    """The certificate that an evaluation supports; `write_certificate` puts it into the artifact.

    Raises CertificateError unless the evaluation is of this artifact, against its own checkpoint, in budget.
    """
    if evaluation.candidate.artifact_hash != artifact.hash:
        raise CertificateError(f"{artifact.path}: the evaluation is of another artifact; evaluate this one")
    source = artifact.manifest.provenance.source
    check_reference(evaluation, source.hash, str(artifact.path))
    assert evaluation.reference is not None
    certificate = Certificate(
        artifact_hash=artifact.hash,
        source_name=source.name,
        source_hash=source.hash,
        budget=budget,
        measured=measured_of(evaluation, artifact, text_part, token_limit, claimed),
        measured_on=MeasuredOn(**evaluation.host.model_dump()),
        speed=speed_of(evaluation),
        peak_memory_bytes=None
        if evaluation.candidate.speed is None
        else evaluation.candidate.speed.peak_rss_bytes,
        load=load,
        costs_hash=costs_hash,
        reference_kv=evaluation.reference.kv,
        seed=evaluation.seed,
        versions={"penjing": version("penjing"), "numpy": np.__version__},
        issued_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    check_budget(certificate, str(artifact.path))
    return certificate


def measured_of(
    evaluation: Evaluation,
    artifact: Artifact,
    text_part: TextPart,
    token_limit: int | None,
    claimed: SequentialBound | None,
) -> Measured:
    """An evaluation's numbers in the certificate's terms."""
    comparison = evaluation.compared
    quality, bound = comparison.quality, comparison.bound
    return Measured(
        tier=evaluation.candidate.tier,
        artifact_bytes=artifact.tensor_bytes,
        checkpoint_bytes=comparison.checkpoint_bytes,
        size_ratio=comparison.size_ratio,
        mean_delta_nll=bound.mean,
        upper_delta_nll=bound.upper,
        confidence=bound.confidence,
        tokens=evaluation.tokens,
        documents=evaluation.text.documents,
        unit=bound.unit,
        units=bound.units,
        reference_perplexity=quality.reference_perplexity,
        candidate_perplexity=quality.candidate_perplexity,
        mean_kl=quality.mean_kl,
        p99_kl=quality.p99_kl,
        max_kl=quality.max_kl,
        top1_agreement=quality.top1_agreement,
        data_name=evaluation.text.name,
        data_hash=evaluation.text.sha256,
        window_tokens=evaluation.window_tokens,
        token_limit=token_limit,
        text_part=text_part,
        margin=None if claimed is None else claimed.margin,
        looks=() if claimed is None else claimed.looks,
    )


def speed_of(evaluation: Evaluation) -> MeasuredSpeed | None:
    """The candidate's speed, if it was measured."""
    speed = evaluation.candidate.speed
    if speed is None:
        return None
    return MeasuredSpeed(
        prefill_tokens_per_second=speed.prefill_tokens_per_second,
        decode_tokens_per_second=speed.decode_tokens_per_second,
    )


def verify_certificate(
    path: Path,
    *,
    data: Path | None = None,
    against: Path | str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verification:
    """Check an artifact's every byte and its certificate; with `data` and `against`, measure the claim again.

    Raises ArtifactError for damage, CertificateError if the certificate is absent, belongs to another
    artifact, contradicts itself, or does not hold when measured.
    """
    artifact = verify_artifact(path)
    certificate = read_certificate(path)
    measured = certificate.measured
    if measured.artifact_bytes != artifact.tensor_bytes:
        raise CertificateError(
            f"{path}: the certificate says {measured.artifact_bytes} bytes of tensors, and they are "
            f"{artifact.tensor_bytes}; measure the artifact again"
        )
    check_budget(certificate, str(path))
    if data is None or against is None:
        return Verification(certificate=certificate, remeasured=None)
    remeasured = remeasure(certificate, path, data, against, threads=threads, progress=progress)
    return Verification(certificate=certificate, remeasured=remeasured)


def check_budget(certificate: Certificate, where: str) -> None:
    """Whether the numbers support the claim. Raises CertificateError naming the one that does not."""
    budget, measured = certificate.budget, certificate.measured
    if measured.artifact_bytes != round(measured.size_ratio * measured.checkpoint_bytes):
        raise CertificateError(f"{where}: the certificate's size ratio contradicts its bytes; it was edited")
    if budget.max_size is not None and measured.size_ratio > budget.max_size:
        raise CertificateError(
            f"{where}: the size is {measured.size_ratio:.2%} of the checkpoint, above {budget.max_size:.2%}"
        )
    if measured.confidence < budget.confidence:
        raise CertificateError(
            f"{where}: measured at confidence {measured.confidence}, below {budget.confidence} that was asked"
        )
    if budget.max_nll_increase is not None and measured.upper_delta_nll > budget.max_nll_increase:
        raise CertificateError(
            f"{where}: the loss bound is {measured.upper_delta_nll:.5f} nats per token, "
            f"above {budget.max_nll_increase:.5f}"
        )
    check_load(certificate, where)


def check_load(certificate: Certificate, where: str) -> None:
    """Whether the measured load is within the limits of speed and memory. Raises CertificateError."""
    broken = broken_limits(certificate.budget, certificate.load)
    if broken:
        raise CertificateError(f"{where}: {'; '.join(broken.values())}")


def broken_limits(budget: Budget, load: MeasuredLoad | None) -> dict[LoadLimit, str]:
    """Which limits of speed and memory a load does not keep, and what is the matter with each."""
    broken: dict[LoadLimit, str] = {}
    if budget.max_latency is not None and (load is None or load.seconds_per_token > budget.max_latency):
        found = "not measured" if load is None else f"{1e3 * load.seconds_per_token:.2f} ms"
        broken["latency"] = f"the time between tokens is {found}, above {1e3 * budget.max_latency:.2f} ms"
    if budget.min_throughput is not None and (load is None or load.tokens_per_second < budget.min_throughput):
        found = "not measured" if load is None else f"{load.tokens_per_second:.1f} tokens/s"
        broken["throughput"] = f"throughput is {found}, below {budget.min_throughput:.1f}"
    if budget.max_ram is not None and (load is None or load.peak_memory_bytes > budget.max_ram):
        found = "not measured" if load is None else f"{load.peak_memory_bytes / 1e6:.1f} MB"
        broken["memory"] = f"the memory of serving is {found}, above {budget.max_ram / 1e6:.1f} MB"
    return broken


def remeasure(
    certificate: Certificate,
    path: Path,
    data: Path,
    against: Path | str,
    *,
    threads: int | None,
    progress: Progress,
) -> Evaluation:
    """Evaluate the certified text again.

    Raises CertificateError for another text, another source, or another result.
    """
    measured = certificate.measured
    settings = Settings(
        window=measured.window_tokens,
        tier=measured.tier,
        threads=threads,
        seed=certificate.seed,
        confidence=measured.confidence,
        speed=False,
    )
    candidate = open_engine(path, settings, measured.tier)
    reference = open_engine(runnable(against, progress), settings, None)
    documents = certified_text(certificate, data, candidate.tokenizer)
    if record_text(data.name, documents).sha256 != measured.data_hash:
        raise CertificateError(f"{data}: is not the text that {path} was measured on ({measured.data_name})")
    if measured.text_part == "all":
        evaluation = evaluate_documents(
            candidate, reference, documents, settings, name=data.name, progress=progress
        )
    else:
        evaluation = prove(
            candidate, reference, documents, measured.margin, settings, name=data.name, progress=progress
        ).evaluation
    check_reference(evaluation, certificate.source_hash, str(path))
    check_remeasured(certificate, evaluation, path)
    return evaluation


def check_reference(evaluation: Evaluation, source_hash: str, where: str) -> None:
    """Raises CertificateError unless the loss was measured against the checkpoint itself, unchanged."""
    reference = evaluation.reference
    if reference is None or not reference.is_original or reference.source_hash != source_hash:
        raise CertificateError(
            f"{where}: its loss was not measured against the checkpoint that it was made from; "
            "compare with that"
        )


def certified_text(certificate: Certificate, data: Path, tokenizer: Tokenizer) -> list[Tokens]:
    """The part of the text that the claim is about."""
    limit = certificate.measured.token_limit
    if certificate.measured.text_part == "all":
        return read_tokens(data, tokenizer, limit)
    return read_parts(data, tokenizer, limit, certificate.seed)[1]


def check_remeasured(certificate: Certificate, evaluation: Evaluation, path: Path) -> None:
    """Raises CertificateError if the new bound is above the budget, or far from the certified one."""
    now, then = evaluation.compared.bound.upper, certificate.measured.upper_delta_nll
    limit = certificate.budget.max_nll_increase
    if abs(now - then) > REMEASURED_TOLERANCE or (limit is not None and now > limit + REMEASURED_TOLERANCE):
        raise CertificateError(
            f"{path}: measured again, the loss bound is {now:.5f} nats per token, "
            f"and the certificate says {then:.5f}"
        )
