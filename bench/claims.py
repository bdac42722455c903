"""How often claims are proved that should not be, and that should be: the table in docs/measurement.md.

    python bench/claims.py [simulations per row] [documents...]

Units are documents of at most 512 tokens. The margin is 1; a document's mean loss is the truth plus noise of
so many margins (`spread`). Each simulation draws a pilot of 64 documents, asks `plan_claim` for a size, and
claims from fresh documents: once at that size, and by a test that may stop, or go on to twice that.
`real`: documents of an evaluation, drawn with replacement (bench/claims.csv: sums of paired differences of
int4 Seedling, in nats, and tokens; the beginnings of 420 files of Python's standard library).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.measure.power import plan_claim
from penjing.measure.sequential import SequentialBound, SequentialTest, looks_of
from penjing.measure.stats import upper_bound

MARGIN = 1.0
TRUTHS = {"margin": 1.0, "half": 0.5, "none": 0.0, "twice": 2.0}
PILOT_UNITS = 64
RESAMPLES = 400
REAL = Path(__file__).with_name("claims.csv")
Floats = NDArray[np.float64]
Units = tuple[Floats, Floats]  # noise of mean 0 and deviation 1, and tokens, of each document
Draw = Callable[[np.random.Generator, int], Units]


def standardised(draw: Callable[[np.random.Generator, int], Floats], mean: float, variance: float) -> Draw:
    """Documents with noise from `draw`, of lengths as the tool reads them."""

    def units(generator: np.random.Generator, count: int) -> Units:
        lengths = np.clip(generator.lognormal(math.log(300), 0.7, count), 16, 512)
        return (draw(generator, count) - mean) / math.sqrt(variance), np.floor(lengths)

    return units


def contaminated(share: float, weight: float) -> Draw:
    """A share of documents loses more by a log-normal amount, the rest is normal."""
    mean = share * weight * math.exp(0.5)
    variance = 1 + share * weight**2 * math.exp(2) - mean**2

    def draw(generator: np.random.Generator, count: int) -> Floats:
        hit = generator.random(count) < share
        return generator.normal(size=count) + weight * hit * generator.lognormal(0, 1, count)

    return standardised(draw, mean, variance)


def real(generator: np.random.Generator, count: int) -> Units:
    """Documents of an actual evaluation."""
    sums, counts = np.loadtxt(REAL, delimiter=",", unpack=True)
    noise = sums / counts - sums.sum() / counts.sum()
    chosen = generator.integers(0, len(sums), count)
    return (noise / noise.std())[chosen], counts[chosen]


def log_normal(generator: np.random.Generator, count: int) -> Floats:
    """Every document is log-normal: skewness 6."""
    return generator.lognormal(0, 1, count)


SOURCES: dict[str, Draw] = {
    "normal": standardised(lambda generator, count: generator.normal(size=count), 0, 1),
    "t3": standardised(lambda generator, count: generator.standard_t(3, count), 0, 3),
    "exponential": standardised(lambda generator, count: generator.exponential(1, count), 1, 1),
    "5% log-normal": contaminated(0.05, 3.0),
    "10% log-normal": contaminated(0.1, 1.0),
    "10% log-normal, x 3": contaminated(0.1, 3.0),
    "log-normal": standardised(log_normal, math.exp(0.5), (math.e - 1) * math.e),
    "real": real,
}


@dataclass
class Tally:
    """What came of the simulations of one row."""

    sizes: list[int] = field(default_factory=list)
    fixed: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in TRUTHS})
    single: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in TRUTHS})
    verdicts: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TRUTHS})
    used: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TRUTHS})

    def count(self, truth: str, verdict: str) -> int:
        """Sequential claims that ended so."""
        return self.verdicts[truth].count(verdict)


def simulate(draw: Draw, spread: float, simulations: int, seed: int) -> Tally:
    """Pilot, plan, claims; the same noise at every truth."""
    generator = np.random.default_rng([seed, round(100 * spread)])
    tally = Tally()
    for number in range(simulations):
        noise, counts = draw(generator, PILOT_UNITS)
        plan = plan_claim(texts(spread * noise, counts), MARGIN)
        noise, counts = draw(generator, 2 * plan.units)
        noise *= spread
        bound = upper_bound(
            texts(noise[: plan.units], counts[: plan.units]), seed=number, resamples=RESAMPLES
        )
        tally.sizes.append(plan.units)
        for name, truth in TRUTHS.items():
            # A bound moves with what is added to every loss.
            tally.fixed[name].append(bound.upper + truth <= MARGIN)
            tally.single[name].append(run(truth + noise, counts, (plan.units,)).verdict == "proved")
            found = run(truth + noise, counts, looks_of(plan.units, len(noise)))
            tally.verdicts[name].append(found.verdict)
            tally.used[name].append(found.units / plan.units)
    return tally


def texts(means: Floats, counts: Floats) -> list[Floats]:
    """Documents whose tokens all lose the same: a bound sees their sums only."""
    return [np.full(int(count), mean) for mean, count in zip(means, counts, strict=True)]


def run(means: Floats, counts: Floats, looks: tuple[int, ...]) -> SequentialBound:
    """Feed documents until the claim is settled."""
    test = SequentialTest(MARGIN, looks)
    for mean, count in zip(means, counts, strict=True):
        bound = test.add(mean * count, int(count))
        if test.is_settled:
            break
    assert bound is not None
    return bound


def row(name: str, spread: float, simulations: int) -> str:
    """A Markdown row; error counts are per 1,000."""
    tally = simulate(SOURCES[name], spread, simulations, seed=100 + list(SOURCES).index(name))
    thousand = 1000 / simulations
    cells = [
        name,
        f"{spread}",
        f"{np.median(tally.sizes):.0f}",
        f"{thousand * sum(tally.fixed['margin']):.0f}",
        f"{100 * np.mean(tally.fixed['half']):.0f}%",
        f"{thousand * sum(tally.single['margin']):.0f}",
        f"{100 * np.mean(tally.single['half']):.0f}%",
        f"{thousand * tally.count('margin', 'proved'):.0f}",
        f"{thousand * tally.count('margin', 'refuted'):.0f}",
        f"{100 * tally.count('half', 'proved') / simulations:.0f}%",
        *(f"{100 * np.mean(tally.used[truth]):.0f}%" for truth in ("none", "half", "twice")),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print("| documents | spread | size asked | bootstrap: false | power | one look: false | power |", end="")
    print(" four looks: false | falsely refuted | power | used at 0 | at half | at twice |")
    print("|---|" + "---:|" * 12)
    for source in sys.argv[2:] or SOURCES:
        for spread_of_documents in (0.8, 1.6):
            print(row(source, spread_of_documents, wanted), flush=True)
