"""Draws the roofline, the parts of a token's time, and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from penjing.optimize.record_parts import Claim, Histogram, Regime, RooflineRecord, Span
from penjing.report.drawing import WIDE, Picture, bottom_axis, left_axis
from penjing.report.numbers import (
    hundredths,
    nearest_prefix,
    percent,
    percent_at_most,
    power_at,
    round_number,
    seconds,
    signed,
    significant,
)
from penjing.report.scales import Scale
from penjing.report.words import Words, known

BARS_TOP = 62.0  # of histograms
SERIES = 8  # colours of the style sheet: s0 to s7
Marker = tuple[float, str, str]  # where, its style, its words


def roofline_plot(roofline: RooflineRecord, say: Words, width: int) -> str:
    """Operations per byte against operations per second: the roof, and how near to it both regimes come."""
    picture = Picture(width, 360, narrow=310)
    read, compute = roofline.read_bytes_per_second, roofline.int8_operations_per_second
    regimes = {"decode": roofline.decode, "prefill": roofline.prefill}
    intensities = {name: one.operations / one.read_bytes for name, one in regimes.items()}
    ridge = compute / read
    reached = [achieved(one) or limit_of(one) for one in regimes.values()]
    ends = (ridge, *intensities.values())
    across = Scale(min(ends) / 4, max(ends) * 4, 58.0, width - 14.0, True)
    up = Scale(min(*reached, read * across.low) / 2, compute * 2.2, picture.bottom, 34.0, True)
    left_axis(picture, up, across, 5, nearest_prefix)
    bottom_axis(picture, across, say("axis.intensity"), 6, round_number)
    picture.text(0, 14, say("axis.operations"), "title")
    roof = [(across.low, read * across.low), (ridge, compute), (across.high, compute)]
    picture.path([(across.at(x), up.at(y)) for x, y in roof], "roof")
    for name, regime in regimes.items():
        draw_regime(picture, regime, across.at(intensities[name]), up, regime_words(regime, name, say))
    return picture.svg(roofline_summary(roofline, say))


def limit_of(regime: Regime) -> float:
    """Operations a second at the bound."""
    return regime.bound_tokens_per_second * regime.operations / regime.tokens


def achieved(regime: Regime) -> float | None:
    """Operations a second as measured."""
    if regime.tokens_per_second is None:
        return None
    return regime.tokens_per_second * regime.operations / regime.tokens


def regime_words(regime: Regime, name: str, say: Words) -> str:
    """A regime's name, and the share of its limit that was measured."""
    words, reached = say(f"regime.{name}"), achieved(regime)
    if reached is None:
        return words
    return say("regime.share").format(name=words, share=percent(reached / limit_of(regime), 0))


def draw_regime(picture: Picture, regime: Regime, x: float, up: Scale, words: str) -> None:
    """A regime's limit on the roof, and what was measured below it."""
    roof, reached = up.at(limit_of(regime)), achieved(regime)
    picture.circle(x, roof, 4, "predicted")
    y = roof
    if reached is not None:
        y = up.at(reached)
        picture.line(x, roof, x, y, "whisker")
        picture.circle(x, y, 4.5, "measured")
    if x + 12 + picture.width_of(words) < picture.width:
        picture.text(x + 11, y + (5 if y - roof > 24 else 24), words, "name")
    else:
        picture.text(picture.width - 4, y + 24, words, "name", "end")


def roofline_summary(roofline: RooflineRecord, say: Words) -> str:
    """The picture in a sentence."""
    decode, prefill = roofline.decode, roofline.prefill
    rate = say("unit.rate")
    return say("roofline.summary").format(
        decode_by=say(f"bound.{decode.bound_by}"),
        decode=rate.format(value=significant(decode.bound_tokens_per_second)),
        prefill_by=say(f"bound.{prefill.bound_by}"),
        prefill=rate.format(value=significant(prefill.bound_tokens_per_second)),
    )


def time_plot(parts: Sequence[Span], say: Words, width: int) -> str:
    """One bar in parts, and below it what they are, in as many columns as there is room for."""
    columns = 3 if width >= WIDE else 1
    rows = math.ceil(len(parts) / columns)
    picture = Picture(width, 52 + 24 * rows)
    total, x = sum(part.seconds for part in parts) or 1.0, 0.0
    for index, part in enumerate(parts):
        share, style = part.seconds / total, f"s{index % SERIES}"
        name = known(say, "kind", part.name)
        picture.rect((x, 0.0, share * width - 1.5, 34.0), style, tip=f"{name}: {percent(share)}")
        x += share * width
        left, y = index // rows * width / columns, 62 + 24 * (index % rows)
        picture.rect((left, y - 10, 11, 11), style)
        picture.text(left + 18, y, name)
        end = left + width / columns - (18 if columns > 1 else 0)
        picture.text(end, y, f"{seconds(part.seconds)}  {percent(share, 0)}", "number", "end")
    most = known(say, "kind", max(parts, key=lambda part: part.seconds).name)
    return picture.svg(say("time.summary").format(total=seconds(total), count=len(parts), name=most))


def claim_plot(claim: Claim, limit: float | None, say: Words, width: int) -> str:
    """The claim to scale: the mean rise of perplexity, its upper bound, and the limit (a fraction) if any."""
    picture = Picture(width, 124)
    mean, upper = math.expm1(claim.mean_nats), math.expm1(claim.upper_nats)
    shown = [0.0, mean, upper, *([] if limit is None else [limit])]
    air = 0.14 * (max(shown) - min(shown)) or 1e-6
    across = Scale(min(shown) - (air if min(shown) < 0 else 0), max(shown) + air, 14, width - 14)
    y, bottom = 46.0, picture.bottom
    if limit is not None:
        x = across.at(limit)
        picture.rect((across.start, 20, x - across.start, bottom - 20), "allowed")
        picture.line(x, 20, x, bottom, "limit")
        picture.text(x, 13, f"{say('budget')} {hundredths(limit)}%", "limit-name", "middle")
    first, last = across.at(mean), across.at(upper)
    picture.line(first, y, last, y, "interval")
    picture.line(last, y - 8, last, y + 8, "interval")
    picture.circle(first, y, 5, "chosen")
    mean_name, upper_name = f"{signed(100 * mean)}%", percent_at_most(upper)
    picture.text(max(first, picture.width_of(mean_name) / 2), y - 12, mean_name, "", "middle")
    picture.text(last + 9, y + 4.5, f"≤ {upper_name}", "upper-name")
    bottom_axis(picture, across, say("axis.rise"), 8 if picture.is_wide else 4, hundredths)
    return picture.svg(say("claim.summary").format(mean=mean_name, upper=upper_name))


def loss_plot(histogram: Histogram, markers: Sequence[Marker], say: Words, width: int, label: str) -> str:
    """Differences of loss: worse to the right of zero, better to the left of it."""
    picture = Picture(width, 300, narrow=260)
    across = Scale(histogram.edges[0], histogram.edges[-1], 44.0, width - 10.0)
    draw_bars(picture, histogram, across, say)
    bottom_axis(picture, across, say("axis.difference"), 8 if picture.is_wide else 5, round_number)
    picture.text(across.start, BARS_TOP + 4, say("better"), "faint")
    picture.text(across.end, BARS_TOP + 4, say("worse"), "faint", "end")
    draw_markers(picture, markers, across)
    return picture.svg(label)


def kl_plot(histogram: Histogram, markers: Sequence[Marker], say: Words, width: int, label: str) -> str:
    """KL divergence over powers of ten."""
    picture = Picture(width, 260, narrow=230)
    across = Scale(histogram.edges[0], histogram.edges[-1], 44.0, width - 10.0, True)
    draw_bars(picture, histogram, across, say)
    bottom_axis(picture, across, say("axis.kl"), 10 if picture.is_wide else 5, power_at)
    draw_markers(picture, markers, across)
    return picture.svg(label)


def draw_bars(picture: Picture, histogram: Histogram, across: Scale, say: Words) -> None:
    """Bars of shares, with their axis."""
    shares = [count / max(1, histogram.total) for count in histogram.counts]
    up = Scale(0, 1.08 * (max(shares) or 1.0), picture.bottom, BARS_TOP)
    left_axis(picture, up, across, 4, hundredths)
    picture.text(0, 14, say("axis.share"), "title")
    for (low, high), share in zip(pairwise(histogram.edges), shares, strict=True):
        x, y = across.at(low), up.at(share)
        better = not across.logarithmic and high <= 0
        tip = f"{significant(low)} … {significant(high)}: {percent(share, 2)}"
        box = (x, y, across.at(high) - x - 1, up.start - y)
        picture.rect(box, "bar-better" if better else "bar", tip=tip)


def draw_markers(picture: Picture, markers: Sequence[Marker], across: Scale) -> None:
    """Named lines; each name stands one line lower than that before it."""
    for index, (value, style, words) in enumerate(markers):
        x, top = across.at(value), BARS_TOP - 26 + 18 * index
        picture.line(x, top - 9, x, picture.bottom, style)
        fits = x + 8 + picture.width_of(words) < picture.width
        picture.text(x + 6 if fits else x - 6, top, words, f"{style}-name", "start" if fits else "end")
