"""Student's t against printed tables, and the inverse against the tail."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.measure.student import student_critical, student_tail


@pytest.mark.parametrize(
    ("value", "degrees", "tail"),
    [
        (6.3138, 1, 0.05),
        (2.9200, 2, 0.05),
        (2.3534, 3, 0.05),
        (2.1318, 4, 0.05),
        (1.8946, 7, 0.05),
        (2.9980, 7, 0.01),
        (2.4573, 30, 0.01),
        (1.6602, 100, 0.05),
        (1.6449, 100_000, 0.05),
    ],
)
def test_tails_match_tables(value: float, degrees: int, tail: float) -> None:
    assert student_tail(value, degrees) == pytest.approx(tail, rel=1e-3)
    assert student_tail(-value, degrees) == pytest.approx(1 - tail, rel=1e-3)


@given(st.floats(1e-9, 0.5), st.integers(1, 200))
def test_a_critical_value_has_its_tail(tail: float, degrees: int) -> None:
    assert student_tail(student_critical(tail, degrees), degrees) == pytest.approx(tail, rel=1e-6)


def test_one_degree_is_cauchy() -> None:
    assert student_critical(0.0125, 1) == pytest.approx(1 / math.tan(math.pi * 0.0125))
