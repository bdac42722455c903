"""Made-up records of searches, as large as real ones: one budget that is kept, one that cannot be."""

from __future__ import annotations

import math

import numpy as np

from penjing.artifact.certificate import Certificate, Measured, MeasuredOn, MeasuredSpeed
from penjing.measure.quality import TokenQuality
from penjing.optimize.documents import TextRecord
from penjing.optimize.evaluation import Host
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import (
    Claim,
    Figures,
    Layer,
    Limit,
    ModelRecord,
    Point,
    Regime,
    RooflineRecord,
    Sample,
    Span,
)
from penjing.optimize.recording import commands_for, errors_of
from penjing.spec import Budget

BITS = {
    "table2/64": 2.26,
    "table3/64": 3.26,
    "table4/64": 4.26,
    "int5/64": 5.25,
    "int6/64": 6.25,
    "int8/128": 8.13,
}
KINDS = {"query+key+value": 5_242_880, "output": 4_194_304, "gate+up": 23_068_672, "down": 11_534_336}
BLOCKS = 22
CHECKPOINT_BYTES = 2_200_119_864
SIZE, MEAN, UPPER, CONFIDENCE = 0.2861, 0.0113, 0.01462, 0.9625
SAMPLES = (
    Sample(
        prompt="The lighthouse keeper counted the ships again and",
        before=" found that one was missing. He wrote the number in his book, closed it, and went down to "
        "the harbour to ask the pilot.",
        after=" found that one was missing. He wrote it down, put on his coat, and walked to the harbour, "
        "where the pilot was mending a net.",
    ),
    Sample(
        prompt="def mean(values):\n",
        before='    """The arithmetic mean."""\n    return sum(values) / len(values)\n',
        after='    """The arithmetic mean."""\n    return sum(values) / len(values)\n',
    ),
)


def layers(seed: int = 0) -> tuple[Layer, ...]:
    """Groups of a model of 22 blocks; the more a group is hurt, the more bits it has."""
    random = np.random.default_rng(seed)
    found = []
    names = ["embedding", *(f"blocks.{b}.{kind}" for b in range(BLOCKS) for kind in KINDS), "head"]
    for name in names:
        _, block, kind = name.split(".", 2) if "." in name else ("", None, name)
        elements = KINDS.get(kind, 65_536_000)
        edge = 0.0 if block is None else abs(int(block) - BLOCKS / 2) / BLOCKS
        base = math.exp(random.normal(-6 + 5 * edge + (1.2 if kind == "down" else 0), 0.5))
        scores = {label: base * 4.4 ** -(bits - 2.26) for label, bits in BITS.items()}
        least = next((label for label in BITS if scores[label] < 7e-4), "int8/128")
        chosen = "int8/128" if block is None else least
        nbytes = round(BITS[chosen] * elements / 8)
        found.append(
            Layer(
                group=name,
                block=None if block is None else int(block),
                kind=kind,
                format=chosen,
                bits_per_weight=8 * nbytes / elements,
                nbytes=nbytes,
                scores={} if block is None else scores,
            )
        )
    return tuple(found)


def points(seed: int = 0) -> tuple[Point, ...]:
    """A frontier as predicted, some of it measured, and uniform recipes above it."""
    random = np.random.default_rng(seed)
    found = []
    for size in np.linspace(0.16, 0.52, 34):
        loss = 0.55 * math.exp(-31 * (size - 0.16)) + 0.0006
        found.append(point(f"mixed {size:.3f}", float(size), loss, None, "predicted"))
    for size in (0.178, 0.215, 0.25, 0.31, 0.36):
        loss = (0.55 * math.exp(-31 * (size - 0.16)) + 0.0006) * random.uniform(0.85, 1.2)
        found.append(point(f"mixed {size:.3f}", size, loss, loss * 1.22 + 0.0006, "measured"))
    uniform = {
        "table2/64": (0.171, 0.71),
        "table3/64": (0.226, 0.244),
        "int4/64": (0.283, 0.082),
        "int8/64": (0.514, 0.0011),
    }
    for name, (size, loss) in uniform.items():
        found.append(point(name, size, loss, loss * 1.15 + 0.0006, "measured"))
    return (*found, point("mixed 0.286", SIZE, MEAN, UPPER, "chosen"))


def point(name: str, size: float, mean: float, upper: float | None, status: str) -> Point:
    return Point.model_validate(
        {
            "name": name,
            "tensor_bytes": round(size * CHECKPOINT_BYTES),
            "size_ratio": size,
            "mean_loss": mean,
            "upper_loss": upper,
            "mean_kl": 1.1 * mean,
            "decode_tokens_per_second": 12.0 / size,
            "status": status,
        }
    )


def quality(tokens: int = 40_000, seed: int = 0) -> TokenQuality:
    """Token differences with heavy tails around a small mean."""
    random = np.random.default_rng(seed)
    kl = np.exp(random.normal(-6.0, 2.2, tokens))
    delta = MEAN + random.standard_t(2.5, tokens) * np.sqrt(kl)
    zeros = np.zeros(tokens)
    return TokenQuality(reference_nll=zeros, candidate_nll=delta, kl=kl, agree=zeros == 0)


def certificate(name: str = "acme/harbor-1b") -> Certificate:
    artifact_bytes = round(SIZE * CHECKPOINT_BYTES)
    return Certificate(
        artifact_hash="a1" * 32,
        source_name=name,
        source_hash="c3" * 32,
        budget=Budget(max_size=0.3, max_loss=0.02),
        measured=Measured(
            tier="best",
            artifact_bytes=artifact_bytes,
            checkpoint_bytes=CHECKPOINT_BYTES,
            size_ratio=artifact_bytes / CHECKPOINT_BYTES,
            mean_delta_nll=MEAN,
            upper_delta_nll=UPPER,
            confidence=CONFIDENCE,
            tokens=91_949,
            documents=214,
            unit="document",
            units=214,
            reference_perplexity=8.142,
            candidate_perplexity=8.234,
            mean_kl=0.0127,
            p99_kl=0.181,
            max_kl=3.4,
            top1_agreement=0.956,
            data_name="held-out.jsonl",
            data_hash="b2" * 32,
            token_limit=200_000,
            text_part="report",
        ),
        measured_on=MeasuredOn(cpu_model="AMD EPYC 9354", isa="avx512", threads=2),
        speed=MeasuredSpeed(prefill_tokens_per_second=412.0, decode_tokens_per_second=41.9),
        peak_memory_bytes=731_000_000,
        reference_kv="fp32",
        seed=0,
        versions={"numpy": "2.1.0", "penjing": "0.1.0"},
        issued_at="2026-01-01T09:30:00+00:00",
    )


def kept(name: str = "acme/harbor-1b") -> SearchRecord:
    """A search that ended well."""
    proof = certificate(name)
    return SearchRecord(
        model=ModelRecord(name=name, family="llama", parameters=1_100_048_384, source_hash=proof.source_hash),
        artifact_hash=proof.artifact_hash,
        budget=proof.budget,
        limits=(
            Limit(what="size", asked=0.3, found=proof.measured.size_ratio),
            Limit(what="loss", asked=0.02, found=math.expm1(UPPER)),
            Limit(what="latency", asked=0.025, found=1 / 41.9),
            Limit(what="memory", asked=1e9, found=731_000_000.0),
        ),
        outcome="kept",
        before=Figures(
            tensor_bytes=CHECKPOINT_BYTES,
            perplexity=8.142,
            prefill_tokens_per_second=148.0,
            decode_tokens_per_second=11.3,
            ttft_seconds=1.73,
            peak_memory_bytes=2_391_000_000,
        ),
        after=Figures(
            tensor_bytes=proof.measured.artifact_bytes,
            perplexity=8.234,
            prefill_tokens_per_second=412.0,
            decode_tokens_per_second=41.9,
            ttft_seconds=0.621,
            peak_memory_bytes=731_000_000,
        ),
        claim=Claim(
            mean_nats=MEAN, upper_nats=UPPER, confidence=CONFIDENCE, unit="document", units=214, tokens=91_949
        ),
        frontier=points(),
        layers=layers(),
        roofline=roofline(),
        time=tuple(Span(name=name, seconds=1e-3 * value) for name, value in TIMES.items()),
        errors=errors_of(quality()),
        samples=SAMPLES,
        stages=tuple(Span(name=name, seconds=value) for name, value in STAGES.items()),
        commands=commands_for("tray"),
        text=TextRecord(name="held-out.jsonl", sha256="d4" * 32, documents=220, tokens=92_311),
        certificate=proof,
    )


TIMES = {
    "query+key+value": 2.1,
    "output": 1.6,
    "gate+up": 7.9,
    "down": 4.8,
    "head": 2.5,
    "kv": 0.6,
    "rest": 4.37,
}
STAGES = {
    "kernel times": 41.0,
    "sensitivity": 171.0,
    "solve": 1.2,
    "build and measure": 640.0,
    "claim": 204.0,
}


def roofline() -> RooflineRecord:
    return RooflineRecord(
        read_bytes_per_second=38.4e9,
        int8_operations_per_second=812e9,
        decode=Regime(
            tokens=1,
            operations=2_200_000_000,
            read_bytes=640_000_000,
            bound_tokens_per_second=60.0,
            bound_by="memory",
            tokens_per_second=41.9,
        ),
        prefill=Regime(
            tokens=256,
            operations=540_000_000_000,
            read_bytes=629_000_000,
            bound_tokens_per_second=385.0,
            bound_by="arithmetic",
            tokens_per_second=312.0,
        ),
    )


def infeasible(name: str = "acme/harbor-1b") -> SearchRecord:
    """A search that found nothing within its budget."""
    return SearchRecord(
        model=ModelRecord(name=name, family="llama", parameters=1_100_048_384, source_hash="c3" * 32),
        budget=Budget(max_size=0.18, max_loss=0.02),
        limits=(
            Limit(what="size", asked=0.18, nearest=0.2713),
            Limit(what="loss", asked=0.02, nearest=0.612),
        ),
        outcome="infeasible",
        binding="size",
        before=Figures(tensor_bytes=CHECKPOINT_BYTES, perplexity=8.142),
        frontier=tuple(one for one in points() if one.status != "chosen"),
        text=TextRecord(name="held-out.jsonl", sha256="d4" * 32, documents=220, tokens=92_311),
        host=Host(cpu_model="AMD EPYC 9354", isa="avx512", threads=2),
        versions={"numpy": "2.1.0", "penjing": "0.1.0"},
        stages=(Span(name="sensitivity", seconds=171.0),),
    )
