"""Schedules at their corners."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="training needs torch")

from penjing.errors import SpecError
from penjing.training.schedules import SCHEDULES, Schedule


def test_trapezoid_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule("trapezoid", warmup_steps=4, decay_steps=5)
    factors = [schedule.factor(step, num_steps=20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:16] == [1.0] * 12
    assert factors[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


def test_an_extended_run_keeps_the_factors_of_its_constant_part() -> None:
    schedule = Schedule("trapezoid", warmup_steps=4, decay_steps=5)
    assert [schedule.factor(s, 20) for s in range(15)] == [schedule.factor(s, 500) for s in range(15)]


def test_cosine_ends_at_zero_and_is_half_in_the_middle() -> None:
    schedule = Schedule("cosine", warmup_steps=10)
    assert schedule.factor(10, 110) == 1.0
    assert schedule.factor(60, 110) == pytest.approx(0.5)
    assert schedule.factor(110, 110) == pytest.approx(0.0)


@pytest.mark.parametrize("shape", SCHEDULES)
def test_factors_stay_between_zero_and_one_without_warmup(shape: str) -> None:
    assert all(0.0 <= Schedule(shape).factor(step, 7) <= 1.0 for step in range(9))


def test_unknown_shapes_and_negative_lengths_are_refused() -> None:
    with pytest.raises(SpecError, match="choose one of constant, cosine, trapezoid"):
        Schedule("triangle")
    with pytest.raises(SpecError, match="negative"):
        Schedule(warmup_steps=-1)
