"""Evaluation: an artifact as served, against its original as it was, on the same text, token by token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penjing import kernels
from penjing.artifact import Artifact
from penjing.data import documents as texts
from penjing.engine import Engine
from penjing.engine.pages import pages_for
from penjing.errors import EmptyDataError, SpecError, TokenizerError
from penjing.measure.machine import cpu_model, usable_cores
from penjing.measure.quality import TokenQuality, concatenate, perplexity, summarize
from penjing.measure.stats import choose_units, upper_bound
from penjing.optimize.compare import Windows, compare_engines, count_scored, score_engine
from penjing.optimize.documents import (
    Tokens,
    cut_windows,
    read_tokens,
    record_text,
    window_length,
)
from penjing.optimize.evaluation import Comparison, Evaluation, Host, Side
from penjing.optimize.progress import Progress, silent
from penjing.optimize.reference import runnable
from penjing.optimize.serving import (
    MAX_REQUEST_TOKENS,
    ServingSpeed,
    make_request,
    measure_serving,
    served_peak_bytes,
    summarize_serving,
)
from penjing.spec import KvFormats, Tier

DEFAULT_TOKENS = texts.DEFAULT_TOKENS
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Settings:
    """How to evaluate. window: tokens, None for min(512, the model's positions). tier: None for `best`."""

    window: int | None = None
    tier: Tier | None = None
    threads: int | None = None
    seed: int = 0
    confidence: float = 0.95
    speed: bool = True

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 2:
            raise SpecError(
                f"window is {self.window} tokens: it must be at least 2, one to see and one to score"
            )
        if not 0.5 < self.confidence < 1.0:
            raise SpecError(f"confidence is {self.confidence}: it must lie between 0.5 and 1")


def evaluate(
    candidate: str | Path,
    against: str | Path | None,
    data: str | Path,
    *,
    tokens: int | None = DEFAULT_TOKENS,
    window: int | None = None,
    tier: Tier | None = None,
    threads: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
    speed: bool = True,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate on the first `tokens` tokens of a text; each side is an artifact or a checkpoint as it is.

    Raises ArtifactError, CheckpointError, DataError, TokenizerError (the sides do not share a tokenizer), or
    SpecError for a setting out of range.
    """
    data = Path(data)
    settings = Settings(window, tier, threads, seed, confidence, speed)
    engine = open_engine(runnable(candidate, progress), settings, tier)
    reference = None if against is None else open_engine(runnable(against, progress), settings, None)
    documents = read_tokens(data, engine.tokenizer, tokens)
    return evaluate_documents(engine, reference, documents, settings, name=data.name, progress=progress)


def evaluate_documents(
    candidate: Engine,
    reference: Engine | None,
    documents: list[Tokens],
    settings: Settings,
    *,
    name: str,
    progress: Progress = silent,
    stage: str = "evaluate",
) -> Evaluation:
    """Evaluate on tokenized documents; `name` is the text's, `stage` labels the progress."""
    if reference is not None:
        check_same_tokenizer(candidate.artifact, reference.artifact)
    windows = windows_of(documents, candidate, settings)
    check_enough(windows, name, bounded=reference is not None)
    speeds = measure_speeds(candidate, reference, documents, settings, progress) if settings.speed else {}
    tier = settings.tier or candidate.artifact.tiers[-1]

    def advance(done: int, total: int) -> None:
        progress(stage, done, total)

    if reference is None:
        own_nll = np.concatenate(score_engine(candidate, windows, tier, advance))
        comparison, other = None, None
    else:
        quality = compare_engines(reference, candidate, windows, tier, advance)
        comparison = compare(candidate.artifact, quality, settings)
        own_nll = np.concatenate([document.candidate_nll for document in quality])
        other_perplexity = comparison.quality.reference_perplexity
        other = describe(reference, "best", other_perplexity, speeds.get("reference"))
    return Evaluation(
        candidate=describe(candidate, tier, perplexity(own_nll), speeds.get("candidate")),
        reference=other,
        comparison=comparison,
        text=record_text(name, documents),
        tokens=len(own_nll),
        window_tokens=window_length(candidate.config.max_positions, settings.window),
        seed=settings.seed,
        host=host(settings),
    )


def open_engine(artifact: Path, settings: Settings, tier: Tier | None) -> Engine:
    """An engine for measuring: one window or request at a time, and nothing of one is reused for the next.

    It holds pages for just that; a full context of keys and values in fp32 could be larger than the model.
    """
    opened = Artifact.open(artifact, in_memory=True)
    longest = max(window_length(opened.config.max_positions, settings.window), MAX_REQUEST_TOKENS)
    return Engine(
        opened,
        tier=tier,
        threads=settings.threads,
        num_pages=pages_for(longest),
        max_sequences=1,
        prefix_cache=False,
    )


def check_same_tokenizer(candidate: Artifact, reference: Artifact) -> None:
    """Token by token comparison means nothing between different tokens. Raises TokenizerError."""
    sides = [artifact.path / TOKENIZER_FILE for artifact in (candidate, reference)]
    same_vocabulary = candidate.config.vocab_size == reference.config.vocab_size
    first, second = (path.read_bytes() for path in sides)
    if not same_vocabulary or (first != second and json.loads(first) != json.loads(second)):
        raise TokenizerError(
            f"{candidate.path} and {reference.path} have different tokenizers; "
            "compare an artifact with the checkpoint it was made from"
        )


def windows_of(documents: list[Tokens], engine: Engine, settings: Settings) -> list[list[Tokens]]:
    """What is scored of each document, in the engine's context."""
    length = window_length(engine.config.max_positions, settings.window)
    return [cut_windows(document, length, engine.tokenizer.bos_id) for document in documents]


def check_enough(windows: Windows, name: str, *, bounded: bool) -> None:
    """Refuse too little text before anything is run. Raises EmptyDataError.

    bounded: whether a loss is to be bounded, which needs independent units; a perplexity needs one token.
    """
    scored = [count_scored([document]) for document in windows]
    if sum(scored) == 0:
        raise EmptyDataError(f"{name}: its tokens leave nothing to score; give more text")
    if bounded:
        choose_units([np.zeros(count) for count in scored])


def measure_speeds(
    candidate: Engine,
    reference: Engine | None,
    documents: list[Tokens],
    settings: Settings,
    progress: Progress,
) -> dict[str, ServingSpeed]:
    """Speed and memory of both sides, by side; requests are interleaved, memory is each side's own."""
    engines = (
        {"candidate": candidate} if reference is None else {"reference": reference, "candidate": candidate}
    )
    tiers = {"candidate": settings.tier, "reference": None}
    request = make_request(documents, candidate.tokenizer.bos_id, candidate.config.max_positions)
    timings = measure_serving(engines, request, "speed", progress)
    return {
        name: summarize_serving(
            timings[name],
            request,
            served_peak_bytes(engine.artifact.path, tiers[name], settings.threads, request),
        )
        for name, engine in engines.items()
    }


def describe(engine: Engine, tier: Tier, own_perplexity: float, speed: ServingSpeed | None) -> Side:
    """An artifact as it was run."""
    artifact = engine.artifact
    source = artifact.manifest.provenance.source
    block = artifact.config.blocks[0]
    matrices = [entry for entry in artifact.manifest.tensors.values() if len(entry.shape) == 2]
    return Side(
        name=source.label,
        artifact_hash=artifact.hash,
        source_hash=source.hash,
        formats=tuple(sorted({entry.format for entry in matrices})),
        tier=tier,
        kv=KvFormats(key=block.key_format, value=block.value_format),
        tensor_bytes=artifact.tier_bytes(tier),
        perplexity=own_perplexity,
        speed=speed,
    )


def compare(artifact: Artifact, quality: list[TokenQuality], settings: Settings) -> Comparison:
    """How far the documents of one side lie from those of the other, and the bound of the loss."""
    checkpoint_bytes = artifact.manifest.provenance.source.tensor_bytes
    deltas = [document.delta_nll for document in quality]
    return Comparison(
        quality=summarize(concatenate(quality)),
        bound=upper_bound(deltas, confidence=settings.confidence, seed=settings.seed),
        size_ratio=artifact.tensor_bytes / checkpoint_bytes,
        checkpoint_bytes=checkpoint_bytes,
    )


def host(settings: Settings) -> Host:
    """This machine, as used."""
    return Host(cpu_model=cpu_model(), isa=kernels.default_isa(), threads=settings.threads or usable_cores())
