"""How often bounds of the mean loss cover the truth, on simulated texts: the table in docs/measurement.md.

    python bench/bound_coverage.py [texts per row]

Token losses have heavy tails (Student's t, 3 degrees), correlate (a decaying memory of 5 tokens) and share an
effect of their document; documents have log-normal lengths of about 60 tokens.
"""

from __future__ import annotations

import sys
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from penjing.measure.stats import upper_bound

TRUE_LOSS = 0.01
CONFIDENCE = 0.95
RESAMPLES = 500
Floats = NDArray[np.float64]


def document_effects(generator: np.random.Generator, documents: int, kind: str) -> Floats:
    """What all tokens of a document share; zero on average."""
    effects: Floats = {
        "none": np.zeros(documents),
        "heavy": generator.standard_t(3, documents) * 0.03,
        "skewed": (generator.exponential(1, documents) - 1) * 0.05,
        "very skewed": (generator.lognormal(0, 1, documents) - np.exp(0.5)) * 0.05,
    }[kind]
    return effects


def simulate(generator: np.random.Generator, documents: int, kind: str) -> list[Floats]:
    """Token losses of one text, by document."""
    lengths = np.maximum(3, generator.lognormal(np.log(60), 0.8, documents)).astype(int)
    effects = document_effects(generator, documents, kind)
    return [
        TRUE_LOSS + effect + correlated(generator, length, 5)
        for effect, length in zip(effects, lengths, strict=True)
    ]


def correlated(generator: np.random.Generator, length: int, memory: int) -> Floats:
    """Heavy-tailed noise [length] that remembers about `memory` tokens."""
    kernel = (1 - 1 / memory) ** np.arange(10 * memory)
    noise = generator.standard_t(3, length + len(kernel)) * 0.2
    return np.convolve(noise, kernel, mode="valid")[:length]


def percentile_bounds(documents: list[Floats], generator: np.random.Generator) -> tuple[float, float]:
    """The percentile and the BCa bootstrap of documents (Efron & Tibshirani 1993, 13 and 14.3)."""
    sums = np.array([document.sum() for document in documents])
    counts = np.array([len(document) for document in documents], float)
    chosen = generator.integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    normal = NormalDist()
    below = np.clip((means < sums.sum() / counts.sum()).mean(), 1 / RESAMPLES, 1 - 1 / RESAMPLES)
    bias, z = normal.inv_cdf(float(below)), normal.inv_cdf(CONFIDENCE)
    without = (sums.sum() - sums) / (counts.sum() - counts)
    gaps = without.mean() - without
    acceleration = float((gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5))
    level = normal.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))
    return float(np.quantile(means, CONFIDENCE)), float(np.quantile(means, level))


def token_bound(documents: list[Floats]) -> float:
    """As if tokens were independent."""
    tokens = np.concatenate(documents)
    return float(tokens.mean() + 1.645 * tokens.std() / np.sqrt(len(tokens)))


def document_table(texts: int) -> None:
    """A Markdown row for each kind of effect and number of documents."""
    print("| effect of a document | documents | studentised (used) | percentile | BCa | tokens as units |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in ("none", "heavy", "skewed", "very skewed"):
        for documents in (10, 20, 40, 100):
            generator = np.random.default_rng([documents, len(kind)])
            covered = np.zeros(4)
            for trial in range(texts):
                text = simulate(generator, documents, kind)
                own = upper_bound(text, confidence=CONFIDENCE, seed=trial, resamples=RESAMPLES).upper
                bounds = [own, *percentile_bounds(text, generator), token_bound(text)]
                covered += np.array(bounds) >= TRUE_LOSS
            cells = " | ".join(f"{100 * count / texts:.1f}%" for count in covered)
            print(f"| {kind} | {documents} | {cells} |", flush=True)


def block_table(texts: int) -> None:
    """A Markdown row for each memory and length of a text that is one document."""
    print("| memory, tokens | tokens of the one text | blocks (used) |\n|---:|---:|---:|")
    for memory in (5, 20, 100):
        for tokens in (6_000, 30_000):
            generator = np.random.default_rng(memory)
            covered = 0
            for trial in range(texts):
                text = TRUE_LOSS + correlated(generator, tokens, memory)
                covered += upper_bound([text], seed=trial, resamples=RESAMPLES).upper >= TRUE_LOSS
            print(f"| {memory} | {tokens:,} | {100 * covered / texts:.1f}% |", flush=True)


if __name__ == "__main__":
    texts_per_row = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    document_table(texts_per_row)
    print()
    block_table(texts_per_row // 2)
