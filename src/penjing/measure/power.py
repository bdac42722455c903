"""How much text a claim asks for, from a pilot's spread; and what to say where there is less.

The claim "mean loss <= margin" is to succeed with probability `power` if the truth is half the margin. With a
standard deviation s of units, estimated with v degrees of freedom, that takes

    units = ((t_v(confidence) + t_v(power)) s / (margin / 2))^2

quantiles of Student's t for the pilot's own uncertainty (Julious & Owen, Pharmaceutical Statistics 5, 2006),
and s raised by a fifth, because a few heavy-tailed units show too little spread more often than too much.
Where the pilot is skewed, the first quantile is what Hall's transform widens it to (measure.skewed), and
there are at least so many units as average skewness away: 25 skewness^2 (Cochran, Sampling
Techniques, 2.15), taken as 60, because a pilot shows less of it than there is. bench/claims.py set these
allowances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penjing.errors import SpecError
from penjing.measure.skewed import ERROR_SPENT, moments_of, reach_of
from penjing.measure.stats import MIN_UNITS, choose_units
from penjing.measure.student import student_critical
from penjing.spec import Spec

Floats = NDArray[np.float64]
LEAST_UNITS = 128
PER_SQUARED_SKEWNESS = 60.0
SPREAD_ALLOWANCE = 1.2
Reason = Literal["spread", "skewness", "least"]


class ClaimPlan(Spec):
    """The units (documents or blocks) a claim of fixed size asks for; if it may stop, twice that at most.

    margin: nats per token; assumed_loss: the truth at which it succeeds with probability `power`. spread: the
    standard deviation of a unit's mean; skewness: of units; both of the pilot, of `pilot_units`.
    tokens_per_unit: as in the pilot. because: what asks for so many.
    """

    units: int
    unit: Literal["document", "block"]
    tokens_per_unit: float
    margin: float
    assumed_loss: float
    confidence: float
    power: float
    spread: float
    skewness: float
    pilot_units: int
    because: Reason

    @property
    def tokens(self) -> int:
        """About how many tokens that is."""
        return round(self.units * self.tokens_per_unit)


def plan_claim(
    pilot: Sequence[Floats], margin: float, *, confidence: float = 0.95, power: float = 0.8
) -> ClaimPlan:
    """From the paired token differences of a pilot's documents, each [tokens], to the size of a claim.

    The pilot may be what a choice was made by, as long as the claim's text is another. Raises EmptyDataError
    if the pilot is too short for a spread, SpecError unless the margin is above 0.
    """
    if margin <= 0:
        raise SpecError(f"no text is long enough to prove a loss of at most {margin}: allow more than 0")
    unit, parts = choose_units(pilot)
    counts = np.array([len(part) for part in parts], np.float64)
    moments = moments_of(np.array([part.sum() for part in parts]), counts)
    spread = moments.error * math.sqrt(moments.units)
    wanted: dict[Reason, int] = {
        "spread": size_for(
            SPREAD_ALLOWANCE * spread,
            moments.skewness,
            margin / 2,
            (ERROR_SPENT * (1 - confidence), 1 - power),
            moments.units - 1,
        ),
        "skewness": math.ceil(PER_SQUARED_SKEWNESS * max(0.0, moments.skewness) ** 2),
        "least": LEAST_UNITS,
    }
    because = max(wanted, key=wanted.__getitem__)
    return ClaimPlan(
        units=wanted[because],
        unit=unit,
        tokens_per_unit=float(counts.mean()),
        margin=margin,
        assumed_loss=margin / 2,
        confidence=confidence,
        power=power,
        spread=spread,
        skewness=moments.skewness,
        pilot_units=moments.units,
        because=because,
    )


def shortage(plan: ClaimPlan, available: int) -> str | None:
    """One line for whoever has too little text, or None if it is enough; `available` units are at hand."""
    if available >= plan.units:
        return None
    reason = {
        "spread": f"losses differ by {plan.spread:.4f} nats from one {plan.unit} to the next",
        "skewness": f"a few {plan.unit}s lose far more than the rest",
        "least": "fewer show no tail",
    }[plan.because]
    return (
        f"the text to claim from has {available} {plan.unit}s, and a loss of at most {plan.margin:.4f} nats "
        f"per token asks for {plan.units} ({plan.tokens:,} tokens): {reason}. Give more text, or allow more "
        "loss; with this much, a sound candidate may fail"
    )


def size_for(
    spread: float, skewness: float, distance: float, tails: tuple[float, float], degrees: int
) -> int:
    """The least units at which a test with the first tail sees a mean that lies `distance` below its limit,
    and misses it with the second. degrees: those with which the spread is known.
    """

    def is_enough(units: int) -> bool:
        reach = reach_of(tails[0], skewness, units, min(degrees, units - 1))
        return (reach + student_critical(tails[1], degrees)) * spread <= distance * math.sqrt(units)

    enough = MIN_UNITS
    while not is_enough(enough):
        enough *= 2
    least = enough // 2
    while enough - least > 1:
        middle = (least + enough) // 2
        least, enough = (least, middle) if is_enough(middle) else (middle, enough)
    return enough
