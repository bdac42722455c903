"""Fills the parts of a search's record that need no search: from an artifact, an evaluation, two engines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact, expected_tensors
from penjing.artifact.certificate import Certificate, read_certificate
from penjing.artifact.config import ModelConfig, count_parameters
from penjing.artifact.layout import CERTIFICATE_FILE
from penjing.engine import Engine, Sampling
from penjing.measure.cost import stored_bytes
from penjing.measure.quality import TokenQuality
from penjing.optimize.choices import block_of, groups_of
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.profile import Profile
from penjing.optimize.record import SearchRecord, read_record, record_file
from penjing.optimize.record_parts import (
    Claim,
    Commands,
    Errors,
    Figures,
    Histogram,
    Layer,
    Limit,
    LimitName,
    ModelRecord,
    Regime,
    RooflineRecord,
    Sample,
    Span,
)
from penjing.optimize.serving import ServingSpeed
from penjing.quantize.assignment import KEEP, label
from penjing.spec import Budget, WeightFormat

SHOWN_SHARE = 0.98  # of token differences; the rest is counted below and above
LOSS_BINS = 51  # odd, so that one of them is "no difference"
LEAST_KL, KL_BINS = 1e-9, 4  # nats, about the rounding of float32 logits; bins in a power of ten
SAMPLE_TOKENS = 48

Floats = NDArray[np.float64]


def recorded(path: str | Path) -> SearchRecord:
    """What is known of an artifact: its search's record, or without one what its certificate says.

    `path` may also be a record's own file. Raises RecordError, ArtifactError, CertificateError.
    """
    if (Path(path) / CERTIFICATE_FILE).exists() and not record_file(path).exists():
        return certified_record(path)
    return read_record(path)


def certified_record(path: str | Path) -> SearchRecord:
    """The record of an artifact that has a certificate and no search behind it: its claim, and what it is.

    Raises a subclass of ArtifactError, or CertificateError.
    """
    artifact, certificate = Artifact.open(path, verify="none"), read_certificate(path)
    measured, source = certificate.measured, artifact.manifest.provenance.source
    speed = certificate.speed
    return SearchRecord(
        model=ModelRecord(
            name=source.label,
            family=artifact.config.family,
            parameters=count_parameters(artifact.config),
            source_hash=source.hash,
        ),
        artifact_hash=artifact.hash,
        budget=certificate.budget,
        limits=limits_of(certificate.budget, certificate),
        outcome="kept",
        before=Figures(tensor_bytes=measured.checkpoint_bytes, perplexity=measured.reference_perplexity),
        after=Figures(
            tensor_bytes=measured.artifact_bytes,
            perplexity=measured.candidate_perplexity,
            prefill_tokens_per_second=None if speed is None else speed.prefill_tokens_per_second,
            decode_tokens_per_second=None if speed is None else speed.decode_tokens_per_second,
            peak_memory_bytes=certificate.peak_memory_bytes,
        ),
        claim=claim_of(certificate),
        layers=layers_of(artifact),
        commands=commands_for(Path(path).name),
        certificate=certificate,
    )


def claim_of(certificate: Certificate) -> Claim:
    """What a certificate claims."""
    measured = certificate.measured
    return Claim(
        mean_nats=measured.mean_delta_nll,
        upper_nats=measured.upper_delta_nll,
        confidence=measured.confidence,
        unit=measured.unit,
        units=measured.units,
        tokens=measured.tokens,
    )


def limits_of(
    budget: Budget, certificate: Certificate | None, nearest: Mapping[LimitName, float] | None = None
) -> tuple[Limit, ...]:
    """Every limit of a budget: what was asked, what was found, and what could be asked."""
    measured = None if certificate is None else certificate.measured
    load = None if certificate is None else certificate.load
    asked: dict[LimitName, tuple[float | None, float | None]] = {
        "size": (budget.max_size, None if measured is None else measured.size_ratio),
        "loss": (budget.max_loss, None if measured is None else math.expm1(measured.upper_delta_nll)),
        "latency": (budget.max_latency, None if load is None else load.seconds_per_token),
        "throughput": (budget.min_throughput, None if load is None else load.tokens_per_second),
        "memory": (budget.max_ram, None if load is None else load.peak_memory_bytes),
    }
    return tuple(
        Limit(what=what, asked=limit, found=found, nearest=(nearest or {}).get(what))
        for what, (limit, found) in asked.items()
        if limit is not None
    )


def commands_for(tray: str) -> Commands:
    """How to serve and to verify an artifact of this path."""
    named = shlex.quote(tray)
    return Commands(serve=f"penjing serve {named}", verify=f"penjing verify {named}")


def figures_of(evaluation: Evaluation) -> tuple[Figures, Figures]:
    """(before, after) of an evaluation that has a reference."""
    comparison, reference, candidate = evaluation.compared, evaluation.reference, evaluation.candidate
    assert reference is not None
    return (
        figures(comparison.checkpoint_bytes, reference.perplexity, reference.speed),
        figures(comparison.artifact_bytes, candidate.perplexity, candidate.speed),
    )


def figures(tensor_bytes: int, perplexity: float, speed: ServingSpeed | None) -> Figures:
    """One side, timed or not."""
    if speed is None:
        return Figures(tensor_bytes=tensor_bytes, perplexity=perplexity)
    return Figures(
        tensor_bytes=tensor_bytes,
        perplexity=perplexity,
        prefill_tokens_per_second=speed.prefill_tokens_per_second,
        decode_tokens_per_second=speed.decode_tokens_per_second,
        ttft_seconds=speed.ttft_seconds,
        peak_memory_bytes=speed.peak_rss_bytes,
    )


def layers_of(
    artifact: Artifact, scores: Mapping[str, Mapping[str, float]] | None = None
) -> tuple[Layer, ...]:
    """The format of every group of matrices, in the order of execution.

    scores: group -> format label -> predicted KL in nats per token, where a search knows them.
    """
    sizes, roles = stored_bytes(artifact), expected_tensors(artifact.config)
    found = []
    for group, names in groups_of(artifact.config):
        nbytes = sum(sizes[name] for name in names)
        block = block_of(group)
        found.append(
            Layer(
                group=group,
                block=block,
                kind=group if block is None else group.split(".", 2)[2],
                format=format_label(artifact, names[0]),
                bits_per_weight=8 * nbytes / sum(math.prod(roles[name].shape) for name in names),
                nbytes=nbytes,
                scores=dict((scores or {}).get(group, {})),
            )
        )
    return tuple(found)


def format_label(artifact: Artifact, matrix: str) -> str:
    """A stored matrix's format as searches call it; any float dtype is `keep`."""
    entry = artifact.entry(matrix)
    if entry.group_size == 0:
        return label(KEEP)
    wanted = {"name": entry.format, "group_size": entry.group_size, "asymmetric": "zeros" in entry.parts}
    return label(WeightFormat.model_validate(wanted))


def roofline_of(
    profile: Profile,
    *,
    decode_tokens_per_second: float | None = None,
    prefill_tokens_per_second: float | None = None,
) -> RooflineRecord:
    """Where an artifact's decoding and prefilling lie under this machine's limits; rates as measured."""
    cost, bound, machine = profile.cost, profile.roofline, profile.machine
    return RooflineRecord(
        read_bytes_per_second=machine.read_bytes_per_second,
        int8_operations_per_second=machine.int8_operations_per_second,
        decode=Regime(
            tokens=1,
            operations=cost.decode_flops,
            read_bytes=cost.decode_read_bytes,
            bound_tokens_per_second=bound.decode_tokens_per_second,
            bound_by=bound.decode_bound,
            tokens_per_second=decode_tokens_per_second,
        ),
        prefill=Regime(
            tokens=cost.prefill_tokens,
            operations=cost.prefill_flops,
            read_bytes=cost.weight_bytes,
            bound_tokens_per_second=bound.prefill_tokens_per_second,
            bound_by=bound.prefill_bound,
            tokens_per_second=prefill_tokens_per_second,
        ),
    )


def time_of(artifact: Artifact, profile: Profile, roofline: RooflineRecord) -> tuple[Span, ...]:
    """Seconds that a decoded token takes to read each kind of matrix, and its keys and values, from memory.

    At the machine's measured rate; where decoding was measured, the rest of its time comes last, as `rest`.
    """
    seconds: dict[str, float] = {}
    for layer in sorted(layers_of(artifact), key=lambda one: one.kind == "embedding"):  # read as a head is
        share = read_share(artifact.config, layer)
        kind = "head" if layer.kind == "embedding" else layer.kind
        if share:
            read = share * layer.nbytes / roofline.read_bytes_per_second
            seconds[kind] = seconds.get(kind, 0.0) + read
    seconds["kv"] = profile.cost.kv_read_bytes / roofline.read_bytes_per_second
    rate = roofline.decode.tokens_per_second
    if rate is not None:
        seconds["rest"] = max(0.0, 1 / rate - sum(seconds.values()))
    return tuple(Span(name=name, seconds=value) for name, value in seconds.items())


def read_share(config: ModelConfig, layer: Layer) -> float:
    """The part of a group's bytes that one decoded token reads: of experts its own, of an embedding a row."""
    if layer.kind == "embedding":
        return float(config.tied_head)
    if layer.block is None or not layer.kind.startswith("experts."):
        return 1.0
    block = config.blocks[layer.block]
    return block.experts_per_token / block.num_experts


def errors_of(quality: TokenQuality) -> Errors:
    """The distributions of token differences and of KL."""
    first, last = np.log10(np.maximum(np.quantile(quality.kl, [0.002, 1.0]), LEAST_KL))
    first, last = math.floor(first), math.ceil(last + 1e-9)
    edges = np.logspace(first, last, KL_BINS * (last - first) + 1)
    return Errors(loss=histogram_of(quality.delta_nll), kl=counted(quality.kl, edges))


def histogram_of(differences: Floats) -> Histogram:
    """Token differences [tokens], nats, in equal bins around 0 that hold all but the rarest."""
    reach = float(np.quantile(np.abs(differences), SHOWN_SHARE)) or 1e-6
    return counted(differences, np.linspace(-reach, reach, LOSS_BINS + 1))


def counted(values: Floats, edges: Floats) -> Histogram:
    """Values between edges; the last edge belongs to the last bin."""
    counts, _ = np.histogram(values, edges)
    return Histogram(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        below=int((values < edges[0]).sum()),
        above=int((values > edges[-1]).sum()),
    )


def samples_of(
    reference: Engine, candidate: Engine, prompts: Sequence[str], max_tokens: int = SAMPLE_TOKENS
) -> tuple[Sample, ...]:
    """How both continue each prompt, greedily. Raises PromptTooLongError."""
    sampling = Sampling(max_tokens=max_tokens)
    return tuple(
        Sample(
            prompt=prompt,
            before=reference.generate(prompt, sampling).text,
            after=candidate.generate(prompt, sampling).text,
        )
        for prompt in prompts
    )
