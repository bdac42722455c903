"""A claim as an evaluation: the loss that was proved, and what else the same text showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penjing.engine import Engine
from penjing.measure.power import plan_claim, shortage
from penjing.measure.quality import TokenQuality, concatenate, summarize
from penjing.measure.sequential import SequentialBound
from penjing.measure.stats import LossBound
from penjing.optimize.claim import Claim, claim
from penjing.optimize.documents import Tokens, record_text, window_length
from penjing.optimize.evaluate import Settings, describe, host, measure_speeds
from penjing.optimize.evaluation import Comparison, Evaluation
from penjing.optimize.progress import Progress, silent


@dataclass(frozen=True)
class Proof:
    """An evaluation of as much text as it took, the claim behind it, and the quality of all scored tokens.

    shortage: how much text would have been enough, where there was less.
    """

    evaluation: Evaluation
    bound: SequentialBound
    quality: TokenQuality
    shortage: str | None


def prove(
    candidate: Engine,
    reference: Engine,
    documents: Sequence[Tokens],
    margin: float | None,
    settings: Settings,
    *,
    name: str,
    progress: Progress = silent,
    stage: str = "claim",
) -> Proof:
    """Claim that the mean loss is at most `margin` (nats per token), from no more text than it takes; without
    a margin, bound it from all of the text.

    The evaluation's bound is the claim's, which allows for having been looked at several times. Raises as
    `claim` does.
    """
    found = claim(candidate, reference, documents, margin, settings=settings, progress=progress, stage=stage)
    quality = concatenate(found.quality)
    summary = summarize(quality)
    speeds = (
        measure_speeds(candidate, reference, list(documents), settings, progress) if settings.speed else {}
    )
    checkpoint_bytes = candidate.artifact.manifest.provenance.source.tensor_bytes
    tier = settings.tier or candidate.artifact.tiers[-1]
    evaluation = Evaluation(
        candidate=describe(candidate, tier, summary.candidate_perplexity, speeds.get("candidate")),
        reference=describe(reference, "best", summary.reference_perplexity, speeds.get("reference")),
        comparison=Comparison(
            quality=summary,
            bound=bound_of(found),
            size_ratio=candidate.artifact.tensor_bytes / checkpoint_bytes,
            checkpoint_bytes=checkpoint_bytes,
        ),
        text=record_text(name, documents),
        tokens=found.record.bound.tokens,
        window_tokens=window_length(candidate.config.max_positions, settings.window),
        seed=settings.seed,
        host=host(settings),
    )
    asked = None
    if margin is not None and margin > 0:
        pilot = [unit.delta_nll for unit in found.quality]
        asked = shortage(plan_claim(pilot, margin, confidence=settings.confidence), found.of_units)
    return Proof(evaluation, found.record.bound, quality, asked)


def bound_of(found: Claim) -> LossBound:
    """A claim's bound in the terms of an evaluation; nothing was resampled."""
    bound = found.record.bound
    return LossBound(
        mean=bound.mean,
        upper=bound.upper,
        confidence=bound.confidence,
        standard_error=bound.standard_error,
        unit=found.record.unit,
        units=bound.units,
        tokens=bound.tokens,
        resamples=0,
        seed=found.record.seed,
    )
