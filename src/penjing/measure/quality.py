"""How far a candidate's predictions lie from the reference's, token by token on the same text.

Per token: the negative log-likelihood (NLL, nats) of the token that came, under both; the divergence
KL(reference || candidate) of the whole predicted distribution; and whether both rank the same token first.
Logits are float32; everything after them is float64, and only a few rows at a time, so that the memory is
bounded by one chunk whatever the vocabulary or the length of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.errors import NonFiniteLogitsError
from penjing.spec import Spec

Floats = NDArray[np.float64]
MAX_WORK_ELEMENTS = 1 << 21  # float64 elements of one temporary: 16 MiB


@dataclass(frozen=True)
class TokenQuality:
    """Per-token results, each [tokens]: NLL of both sides and KL in nats (float64), top-1 agreement."""

    reference_nll: Floats
    candidate_nll: Floats
    kl: Floats
    agree: NDArray[np.bool_]

    @property
    def delta_nll(self) -> Floats:
        """Candidate minus reference: positive is worse. [tokens]."""
        delta: Floats = self.candidate_nll - self.reference_nll
        return delta


class QualitySummary(Spec):
    """Averages over tokens. A perplexity is exp of a mean NLL; mean_delta_nll is in nats per token."""

    tokens: int
    reference_perplexity: float
    candidate_perplexity: float
    mean_delta_nll: float
    mean_kl: float
    p99_kl: float
    max_kl: float
    top1_agreement: float


def compare_logits(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> TokenQuality:
    """Compare two chunks of logits [rows, vocab] of the same rows; `targets` [rows] are what came.

    Raises NonFiniteLogitsError for NaN or Inf.
    """
    assert reference.shape == candidate.shape, (reference.shape, candidate.shape)
    assert targets.shape == reference.shape[:1], (targets.shape, reference.shape)
    rows = max(1, MAX_WORK_ELEMENTS // reference.shape[1])
    spans = [slice(start, start + rows) for start in range(0, len(targets), rows)]
    return concatenate(_compare_rows(reference[span], candidate[span], targets[span]) for span in spans)


def compare_streams(
    chunks: Iterable[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]],
) -> TokenQuality:
    """`compare_logits` over a stream of (reference, candidate, targets); one chunk is in memory at a time."""
    return concatenate([compare_logits(*chunk) for chunk in chunks])


def concatenate(parts: Iterable[TokenQuality]) -> TokenQuality:
    """Join results of successive rows."""
    held = list(parts)
    empty = np.zeros(0)
    return TokenQuality(
        reference_nll=np.concatenate([empty, *(part.reference_nll for part in held)]),
        candidate_nll=np.concatenate([empty, *(part.candidate_nll for part in held)]),
        kl=np.concatenate([empty, *(part.kl for part in held)]),
        agree=np.concatenate([np.zeros(0, bool), *(part.agree for part in held)]),
    )


def token_nll(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> Floats:
    """NLL in nats [rows] of `targets` [rows] under logits [rows, vocab]. Raises NonFiniteLogitsError."""
    rows = max(1, MAX_WORK_ELEMENTS // logits.shape[1])
    parts = [np.zeros(0)]
    for start in range(0, len(targets), rows):
        scores = log_softmax(logits[start : start + rows])
        parts.append(-scores[np.arange(len(scores)), targets[start : start + rows]])
    return np.concatenate(parts)


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """Log-probabilities float64 [rows, vocab]; the maximum is subtracted first, so that nothing overflows."""
    scores: Floats = logits.astype(np.float64)
    if not np.isfinite(scores).all():
        raise NonFiniteLogitsError(
            "logits hold NaN or Inf while measuring quality: check the model's weights"
        )
    scores -= scores.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores


def summarize(quality: TokenQuality) -> QualitySummary:
    """Averages over all tokens, each with equal weight; the KL percentile is exact."""
    assert len(quality.kl) > 0
    return QualitySummary(
        tokens=len(quality.kl),
        reference_perplexity=perplexity(quality.reference_nll),
        candidate_perplexity=perplexity(quality.candidate_nll),
        mean_delta_nll=float(quality.delta_nll.mean()),
        mean_kl=float(quality.kl.mean()),
        p99_kl=float(np.percentile(quality.kl, 99)),
        max_kl=float(quality.kl.max()),
        top1_agreement=float(quality.agree.mean()),
    )


def perplexity(nll: Floats) -> float:
    """exp of the mean of NLL [tokens] in nats."""
    return math.exp(float(nll.mean()))


def _compare_rows(
    reference: NDArray[np.float32], candidate: NDArray[np.float32], targets: NDArray[np.int64]
) -> TokenQuality:
    reference_scores, candidate_scores = log_softmax(reference), log_softmax(candidate)
    rows = np.arange(len(targets))
    return TokenQuality(
        reference_nll=-reference_scores[rows, targets],
        candidate_nll=-candidate_scores[rows, targets],
        kl=_divergence(reference_scores, candidate_scores),
        agree=reference.argmax(axis=1) == candidate.argmax(axis=1),
    )


def _divergence(reference: Floats, candidate: Floats) -> Floats:
    """KL of each row, from log-probabilities; rounding may not make it negative."""
    divergence: Floats = (np.exp(reference) * (reference - candidate)).sum(axis=1)
    return np.maximum(divergence, 0.0)
