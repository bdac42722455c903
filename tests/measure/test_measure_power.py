"""How much text a claim asks for: the textbook case, what raises it, and what is said of too little."""

from __future__ import annotations

import numpy as np
import pytest

from penjing.errors import EmptyDataError, SpecError
from penjing.measure.power import LEAST_UNITS, SPREAD_ALLOWANCE, plan_claim, shortage, size_for


def pilot(noise: np.ndarray, tokens: int = 20) -> list[np.ndarray]:
    """Documents whose tokens all lose the same."""
    return [np.full(tokens, mean) for mean in noise]


def symmetric(count: int, spread: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=count // 2)
    noise = np.concatenate([noise, -noise])
    return spread * noise / noise.std(ddof=1)


def test_the_textbook_case() -> None:
    """(1.645 + 0.842)^2 (s / distance)^2 units, where the spread is known well; a little more for t."""
    assert size_for(2.0, 0.0, 1.0, (0.05, 0.2), 1000) == pytest.approx(24.7, abs=3)
    assert size_for(8.0, 0.0, 1.0, (0.05, 0.2), 1000) == pytest.approx(395.7, abs=4)


def test_half_the_margin_takes_four_times_the_text() -> None:
    noise = symmetric(2000, 1.0)
    wide, narrow = plan_claim(pilot(noise), 0.5), plan_claim(pilot(noise), 0.25)
    assert wide.because == narrow.because == "spread"
    assert narrow.units == pytest.approx(4 * wide.units, rel=0.02)
    assert wide.units == pytest.approx((1.751 + 0.842) ** 2 * (SPREAD_ALLOWANCE / 0.25) ** 2, rel=0.03)
    assert wide.assumed_loss == 0.25
    assert wide.tokens == 20 * wide.units


def test_a_small_pilot_asks_for_more() -> None:
    sizes = [plan_claim(pilot(symmetric(count, 1.0)), 0.4).units for count in (10, 40, 400)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.15 * sizes[2]


def test_rare_disasters_ask_for_more_than_their_spread() -> None:
    noise = np.zeros(60)
    noise[7] = 1.0
    plan = plan_claim(pilot(noise + symmetric(60, 0.01)), 10.0)
    assert plan.because == "skewness"
    assert plan.units > 1000
    mirrored = plan_claim(pilot(symmetric(60, 0.01) - noise), 10.0)
    assert (mirrored.because, mirrored.units) == ("least", LEAST_UNITS)


def test_too_little_text_is_said_in_one_line() -> None:
    plan = plan_claim(pilot(symmetric(40, 1.0)), 0.5)
    assert shortage(plan, plan.units) is None
    line = shortage(plan, 20)
    assert line is not None
    assert line.startswith(
        "the text to claim from has 20 documents, and a loss of at most 0.5000 nats per token "
        f"asks for {plan.units} ({plan.tokens:,} tokens)"
    )
    assert "losses differ by 1.0000 nats" in line
    assert "\n" not in line


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(SpecError, match="allow more than 0"):
        plan_claim(pilot(symmetric(40, 1.0)), 0.0)
    with pytest.raises(EmptyDataError, match="too few"):
        plan_claim(pilot(np.zeros(4)), 0.1)
