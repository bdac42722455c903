"""Holm's correction against its definition and a worked example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.measure.holm import adjust, proved


def test_a_worked_example() -> None:
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert adjust(values) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert proved(values) == ("a", "d")
    assert proved({"a": 0.04, "b": 0.03}) == ()


def test_one_claim_needs_no_correction() -> None:
    assert adjust({"only": 0.05}) == {"only": 0.05}
    assert adjust({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.5, 0.999))
def test_steps_down_until_one_fails(values: list[float], confidence: float) -> None:
    """As Holm wrote it: the k-th smallest is compared with level / (m - k + 1), up to the first failure."""
    named = {str(index): value for index, value in enumerate(values)}
    expected = set()
    for place, name in enumerate(sorted(named, key=lambda key: named[key])):
        if (len(named) - place) * named[name] > 1 - confidence:
            break
        expected.add(name)
    assert set(proved(named, confidence)) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_never_more_than_bonferroni_nor_less_than_alone(values: list[float]) -> None:
    named = {str(index): value for index, value in enumerate(values)}
    for name, value in adjust(named).items():
        assert named[name] <= value <= min(1.0, len(named) * named[name])
