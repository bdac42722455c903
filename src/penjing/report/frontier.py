"""Draws the frontier: size against loss of what was predicted, measured and chosen, and the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from penjing.optimize.record_parts import Limit, LimitName, Point
from penjing.report.drawing import Box, Picture, bottom_axis, left_axis
from penjing.report.numbers import hundredths, percent, percent_as_given, signed
from penjing.report.scales import Scale, spread
from penjing.report.words import Words

AROUND = 3.0  # a name, so that it does not touch others
NEAR = 1.35  # a limit on size further than this beyond all points is not shown


def frontier_plot(points: Sequence[Point], limits: Sequence[Limit], say: Words, width: int) -> str:
    """The picture, `width` wide. Losses are shown as rises of perplexity, in per cent."""
    picture = Picture(width, 400, narrow=330)
    asked = {limit.what: limit.asked for limit in limits}
    left, top = (58.0, 44.0) if picture.is_wide else (42.0, 64.0)
    right = width - 14.0
    across = size_scale(points, asked.get("size"), left, right)
    values = [rise(point) for point in points] + ([asked["loss"]] if "loss" in asked else [])
    low, high, logarithmic = spread(values)
    up = Scale(low, high, picture.bottom, top, logarithmic)
    taken = draw_budget(picture, across, up, asked)
    left_axis(picture, up, across, 6, hundredths)
    bottom_axis(picture, across, say("axis.size"), 8 if picture.is_wide else 4, hundredths)
    picture.text(0, 14, say("axis.rise"), "title")
    draw_legend(picture, points, right, 14 if picture.is_wide else 34, say)
    line = undominated([point for point in points if point.status == "predicted"] or points)
    best = [(across.at(point.size_ratio), up.at(rise(point))) for point in line]
    picture.path(steps(best), "frontier")
    taken += draw_points(picture, points, across, up)
    draw_names(picture, points, across, up, taken)
    return picture.svg(summary(points, say))


def rise(point: Point) -> float:
    """Rise of perplexity as a fraction, at the upper bound where there is one."""
    return math.expm1(point.mean_loss if point.upper_loss is None else point.upper_loss)


def size_scale(points: Sequence[Point], limit: float | None, left: float, right: float) -> Scale:
    """Sizes from the least to the greatest, and the limit if it is near."""
    sizes = [point.size_ratio for point in points]
    if limit is not None and limit <= NEAR * max(sizes):
        sizes.append(limit)
    low, high = min(sizes), max(sizes)
    air = 0.08 * (high - low) or 0.1 * high
    return Scale(max(0.0, low - air), high + air, left, right)


def draw_budget(picture: Picture, across: Scale, up: Scale, asked: Mapping[LimitName, float]) -> list[Box]:
    """Tint what the budget allows, and mark the limits that bound it; where they stand."""
    taken: list[Box] = []
    size, loss = asked.get("size"), asked.get("loss")
    right = across.end if size is None else across.at(size)
    ceiling = up.end if loss is None else up.at(loss)
    if size is not None or loss is not None:
        picture.rect((across.start, ceiling, right - across.start, up.start - ceiling), "allowed")
    if size is not None and size < across.high:
        name = f"≤ {percent_as_given(size)}"
        half = picture.width_of(name) / 2
        picture.line(right, up.end, right, up.start, "limit")
        picture.text(min(right, picture.width - half), up.end - 5, name, "limit-name", "middle")
        taken.append((right, up.end, 1.0, up.start - up.end))
    if loss is not None:
        picture.line(across.start, ceiling, across.end, ceiling, "limit")
        name = f"≤ {percent_as_given(loss)}"
        picture.text(across.end, ceiling - 6, name, "limit-name", "end")
        wide = picture.width_of(name)
        taken += [(across.end - wide, ceiling - 18, wide, 14.0), (across.start, ceiling, across.end, 1.0)]
    return taken


def draw_legend(picture: Picture, points: Sequence[Point], right: float, y: float, say: Words) -> None:
    """What the marks mean, in a line that ends at the right."""
    present = {point.status for point in points}
    x = right
    for status in ("chosen", "measured", "predicted"):
        if status in present:
            name = say(f"status.{status}")
            picture.text(x, y, name, "", "end")
            x -= picture.width_of(name) + 15
            mark(picture, x, y - 4, status)
            x -= 24


def mark(picture: Picture, x: float, y: float, status: str, tip: str = "") -> None:
    """The sign of a status."""
    if status == "chosen":
        picture.diamond(x, y, 7, "chosen", tip)
    elif status == "measured":
        picture.circle(x, y, 4.5, "measured", tip)
    else:
        picture.circle(x, y, 3, "predicted", tip)


def undominated(points: Sequence[Point]) -> list[Point]:
    """Those that no other point is both smaller and better than, by size."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.size_ratio, rise(one))):
        if not found or rise(point) < rise(found[-1]):
            found.append(point)
    return found


def steps(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A staircase: until the next smaller loss is reached, the present one is what a size can have."""
    found = list(places[:1])
    for (_, y), (x, lower) in pairwise(places):
        found += [(x, y), (x, lower)]
    return found


def draw_points(picture: Picture, points: Sequence[Point], across: Scale, up: Scale) -> list[Box]:
    """Marks and whiskers, the chosen one last and on top; where they lie, as (x, y, width, height)."""
    taken = []
    order = ("predicted", "measured", "chosen")
    for point in sorted(points, key=lambda one: order.index(one.status)):
        x, y = across.at(point.size_ratio), up.at(rise(point))
        if point.upper_loss is not None:
            picture.line(x, y, x, up.at(math.expm1(point.mean_loss)), "whisker")
        tip = f"{point.name}: {percent(point.size_ratio)}, {signed(100 * rise(point))}%"
        mark(picture, x, y, point.status, tip)
        taken.append((x - 6, y - 6, 12.0, 12.0))
    return taken


def draw_names(picture: Picture, points: Sequence[Point], across: Scale, up: Scale, taken: list[Box]) -> None:
    """Names of what was measured where there is room for them; the chosen one's first, and in any case."""
    wanted = [point for point in points if point.status != "predicted"]
    for point in sorted(wanted, key=lambda one: (one.status != "chosen", one.size_ratio)):
        at = across.at(point.size_ratio), up.at(rise(point))
        places = list(places_for(picture, point.name, at, across))
        free = [place for place in places if not any(overlap(place, other) for other in taken)]
        is_chosen = point.status == "chosen"
        found = free or places if is_chosen else free
        if found:
            left, top, *_ = found[0]
            taken.append(found[0])
            name = "chosen-name" if is_chosen else "name"
            picture.text(left + AROUND, top + 0.82 * picture.font, point.name, name)


def places_for(picture: Picture, name: str, at: tuple[float, float], across: Scale) -> Iterator[Box]:
    """Where a name may stand beside its mark, the best place first."""
    (x, y), wide, high = at, picture.width_of(name), picture.font
    for left, top in (
        (x + 7, y - 7 - high),
        (x + 11, y - high / 2),
        (x - 11 - wide, y - high / 2),
        (x - wide / 2, y - 11 - high),
        (x - wide / 2, y + 11),
        (x - 7 - wide, y - 7 - high),
        (x + 8, y + 6),
        (x - 8 - wide, y + 6),
    ):
        if across.start <= left and left + wide <= picture.width and top >= 0:
            yield left - AROUND, top, wide + 2 * AROUND, high + AROUND


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes meet."""
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


def summary(points: Sequence[Point], say: Words) -> str:
    """The picture in a sentence."""
    chosen = next((point for point in points if point.status == "chosen"), None)
    if chosen is None:
        return say("frontier.summary.none").format(count=len(points))
    return say("frontier.summary").format(count=len(points), size=percent(chosen.size_ratio))
