"""The solver against every assignment there is, on small instances."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.optimize.choices import Choice, Group
from penjing.optimize.solver import (
    QUANTITIES,
    Assignment,
    InfeasibleError,
    Limits,
    Quantity,
    assignment_of,
    frontier,
    solve,
)
from penjing.spec import WeightFormat

INT4 = WeightFormat(name="int4")
CHOICES = st.builds(
    Choice,
    st.just(INT4),
    st.integers(0, 12),
    st.integers(0, 8).map(lambda ticks: ticks / 7),
    st.integers(0, 12).map(lambda ticks: ticks / 11),
)
GROUPS = st.lists(st.lists(CHOICES, min_size=1, max_size=4), min_size=1, max_size=5).map(
    lambda tables: tuple(Group(f"g{place}", (), tuple(table)) for place, table in enumerate(tables))
)
LIMITS = st.builds(
    Limits,
    st.none() | st.integers(0, 50),
    st.none() | st.floats(0, 5),
    st.none() | st.floats(0, 4),
    st.integers(0, 5),
    st.floats(0, 1),
    st.floats(0, 1),
)


def every(groups: Sequence[Group], limits: Limits) -> list[Assignment]:
    """All assignments within the limits."""
    tables = [group.choices for group in groups]
    found = [assignment_of(groups, chosen, limits) for chosen in itertools.product(*tables)]
    return [one for one in found if limits.all_keep(one)]


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, limits=LIMITS, objective=st.sampled_from(QUANTITIES))
def test_the_least_objective_within_the_limits(
    groups: tuple[Group, ...], limits: Limits, objective: Quantity
) -> None:
    possible = every(groups, limits)
    if not possible:
        with pytest.raises(InfeasibleError) as caught:
            solve(groups, limits, objective)
        for quantity, nearest in caught.value.nearest.items():
            others = every(groups, limits.without(quantity))
            least = min((getattr(one, quantity) for one in others), default=None)
            assert nearest == (None if least is None else pytest.approx(least))
        assert caught.value.binding in caught.value.nearest
        return
    found = solve(groups, limits, objective)
    least = min(getattr(one, objective) for one in possible)
    assert limits.all_keep(found)
    assert getattr(found, objective) == pytest.approx(least)
    assert found.bound is not None
    assert found.bound <= getattr(found, objective) + 1e-9
    assert found == solve(groups, limits, objective)
    second: Quantity = "nbytes" if objective == "loss" else "loss"
    equals = [one for one in possible if getattr(one, objective) <= least * (1 + 1e-12)]
    assert getattr(found, second) == pytest.approx(min(getattr(one, second) for one in equals))


@settings(max_examples=20, deadline=None)
@given(groups=GROUPS, limits=LIMITS)
def test_no_point_of_a_frontier_is_beaten(groups: tuple[Group, ...], limits: Limits) -> None:
    possible = every(groups, limits)
    if not possible:
        return
    points = frontier(groups, limits, points=6)
    for point in points:
        assert limits.all_keep(point)
        better = [one for one in possible if one.nbytes <= point.nbytes and one.loss < point.loss - 1e-3]
        assert not better
    assert points[0].nbytes == min(one.nbytes for one in possible)
    assert points[-1].loss == pytest.approx(min(one.loss for one in possible), rel=1e-4)
    assert [p.nbytes for p in points] == sorted({p.nbytes for p in points})


def test_a_limit_that_nothing_keeps_is_named() -> None:
    groups = (Group("g", (), (Choice(INT4, 10, 1.0, 0.5), Choice(INT4, 20, 2.0, 0.1))),)
    with pytest.raises(InfeasibleError, match=r"limit of size binds \(12\): at least 13 is needed") as caught:
        solve(groups, Limits(nbytes=12, loss=1.0, fixed_bytes=3))
    assert caught.value.nearest == {"nbytes": 13, "loss": None}
    with pytest.raises(InfeasibleError) as caught:
        solve(groups, Limits(nbytes=15, loss=0.2))  # each possible, not both
    assert caught.value.nearest == {"nbytes": 20, "loss": 0.5}
    assert caught.value.binding == "nbytes"


@pytest.mark.parametrize("seconds", [None, 0.55])
def test_a_large_instance_is_solved_to_a_small_gap(seconds: float | None) -> None:
    random = np.random.Generator(np.random.PCG64(0))
    groups = []
    for place in range(130):
        size, weight = float(random.uniform(0.5, 4)), float(np.exp(random.normal()))
        groups.append(
            Group(
                f"g{place}",
                (),
                tuple(
                    Choice(
                        INT4,
                        int(size * bits * 1e6),
                        size * (bits / 4 + (bits % 1)) / 500,
                        weight * size * 4.0**-bits,
                    )
                    for bits in (2.25, 2.5, 3.25, 3.5, 4.12, 4.25, 4.5, 5.25, 6.25, 8.12, 8.5)
                ),
            )
        )
    whole = sum(group.choices[3].nbytes for group in groups)
    limits = Limits(nbytes=whole, seconds=seconds)
    found = solve(groups, limits, "loss", gap=1e-4)
    assert limits.all_keep(found)
    assert found.bound is not None
    assert found.loss <= found.bound * (1 + 1e-3)
