"""Axes, numbers and pictures: round marks, nothing outside of a picture, extremes that do not break it."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import BITS, kept, point, points

from penjing.optimize.record_parts import Histogram, Limit, Span
from penjing.report import numbers
from penjing.report.frontier import frontier_plot, undominated
from penjing.report.maps import bits_map, even_share, scored_formats, sensitivity_map
from penjing.report.plots import claim_plot, kl_plot, loss_plot, roofline_plot, time_plot
from penjing.report.scales import Scale, spread
from penjing.report.words import words

WIDTHS = (688, 340)
EN = words("en")


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "expected"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (-0.3, 1.1, False, [0, 0.5, 1.0]),
        (0.012, 88, True, [0.1, 1, 10]),
        (3, 40, True, [5, 10, 20]),
    ],
)
def test_marks_are_round(low: float, high: float, logarithmic: bool, expected: list[float]) -> None:
    ticks = Scale(low, high, 0, 100, logarithmic).ticks(5)
    assert [round(tick, 9) for tick in ticks] == expected


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_every_value_has_a_place_between_the_ends(values: list[float]) -> None:
    low, high, logarithmic = spread(values)
    scale = Scale(low, high, 10, 200, logarithmic)
    places = [scale.at(value) for value in values]
    assert all(10 <= place <= 200 for place in places)
    assert [scale.at(value) for value in sorted(values)] == sorted(places)
    assert scale.ticks(5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (0.001234, "0.00123"),
        (2.8e-7, "2.80×10⁻⁷"),
        (-0.5, "−0.500"),
        (99.95, "100.0"),
    ],
)
def test_significant(value: float, expected: str) -> None:
    assert numbers.significant(value) == expected


def test_bounds_are_rounded_away_from_what_is_better() -> None:
    assert numbers.percent_at_most(0.0147271) == "1.48%"
    assert numbers.percent_at_most(0.02) == "2.00%"
    assert numbers.percent_at_most(0.0147271, math.floor) == "1.47%"


def pictures(width: int) -> list[str]:
    record = kept()
    assert record.roofline is not None
    assert record.errors is not None
    assert record.claim is not None
    return [
        frontier_plot(record.frontier, record.limits, EN, width),
        bits_map(record.layers, EN, width),
        sensitivity_map(record.layers, EN, width),
        roofline_plot(record.roofline, EN, width),
        time_plot(record.time, EN, width),
        claim_plot(record.claim, 0.02, EN, width),
        loss_plot(record.errors.loss, [(0.01, "mean", "mean")], EN, width, "label"),
        kl_plot(record.errors.kl, [], EN, width, "label"),
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_lies_outside_of_a_picture(width: int) -> None:
    for svg in pictures(width):
        height = float(re.findall(r'height="(\d+)"', svg)[0])
        for x, y in re.findall(r' c?x="(-?[\d.]+)" c?y="(-?[\d.]+)"', svg):
            assert -0.1 <= float(x) <= width + 0.1, svg[:200]
            assert -0.1 <= float(y) <= height + 0.1, svg[:200]
        assert 'role="img"' in svg
        assert "<desc>" in svg
        assert "nan" not in svg


@pytest.mark.parametrize("width", WIDTHS)
def test_the_chosen_one_is_named(width: int) -> None:
    svg = frontier_plot(kept().frontier, kept().limits, EN, width)
    assert re.search(r'class="chosen-name">mixed 0\.286<', svg)


def test_the_frontier_is_what_nothing_beats() -> None:
    found = undominated(points())
    sizes, losses = [one.size_ratio for one in found], [one.upper_loss or one.mean_loss for one in found]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    for one in points():
        assert any(
            other.size_ratio <= one.size_ratio
            and (other.upper_loss or other.mean_loss) <= (one.upper_loss or one.mean_loss)
            for other in found
        )


@pytest.mark.parametrize("loss", [-0.01, 0.0, 1e-9, 3.0])
@pytest.mark.parametrize("limits", [(), (Limit(what="size", asked=0.9), Limit(what="loss", asked=1e-4))])
def test_a_single_point_is_a_picture(loss: float, limits: tuple[Limit, ...]) -> None:
    assert "chosen" in frontier_plot([point("one", 0.3, loss, loss, "chosen")], limits, EN, 340)


def test_pictures_of_next_to_nothing() -> None:
    layer = kept().layers[0]
    assert bits_map([layer], EN, 340).count('class="cell"') == 1
    assert sensitivity_map([layer.model_copy(update={"scores": {"int4/64": 0.0}})], EN, 340)
    assert time_plot([Span(name="all", seconds=0.0)], EN, 340)
    assert loss_plot(Histogram(edges=(-1, 0, 1), counts=(0, 0)), [], EN, 340, "empty")


def test_what_hurts_most_comes_first() -> None:
    assert scored_formats(kept().layers) == list(BITS)
    backwards = [
        layer.model_copy(update={"scores": dict(reversed(layer.scores.items()))}) for layer in kept().layers
    ]
    assert scored_formats(backwards) == list(BITS)


def test_strips_are_about_as_long() -> None:
    assert [even_share(count, 10) for count in (0, 1, 10, 11, 22, 80)] == [1, 1, 10, 6, 8, 10]
