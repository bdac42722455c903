"""Draws maps of a model: the bits of every group of matrices, and the harm each format would do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from penjing.optimize.record_parts import Layer
from penjing.report.drawing import Box, Picture
from penjing.report.numbers import significant
from penjing.report.words import Words, known

LEAST_CELL, WIDEST_CELL, ROW = 25.0, 44.0, 26.0  # of the map of bits, whose cells hold numbers
ROOMY = 36.0  # a cell this wide has room for two decimals
LEAST_BITS, MOST_BITS = 2.0, 8.5  # the palest, and the darkest unless there are more
PALEST, DARKEST = 0.06, 0.70  # on which numbers can be read, in light and dark alike
LEGEND_STEPS = 24


def bits_map(layers: Sequence[Layer], say: Words, width: int) -> str:
    """Blocks across, kinds of matrices down, in as many strips as it takes; what is in no block last."""
    kinds = kinds_of(layers)
    label = label_width(kinds, say, width)
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    per_strip = even_share(len(blocks), int((width - label) // LEAST_CELL))
    strips = [blocks[start : start + per_strip] for start in range(0, len(blocks), per_strip)]
    cell = min(WIDEST_CELL, (width - label) / max(1, min(per_strip, len(blocks))))
    alone = [layer for layer in layers if layer.block is None]
    strip_height = 24 + ROW * len(kinds) + 10
    picture = Picture(width, len(strips) * strip_height + ROW * len(alone) + 4)
    most = max(MOST_BITS, *(layer.bits_per_weight for layer in layers))
    cells = {(layer.block, layer.kind): layer for layer in layers}
    for number, strip in enumerate(strips):
        top = number * strip_height
        picture.text(label - 8, top + 14, say("axis.block"), "number", "end")
        for column, block in enumerate(strip):
            picture.text(label + (column + 0.5) * cell, top + 14, str(block), "number", "middle")
        for row, kind in enumerate(kinds):
            y = top + 22 + row * ROW
            picture.text(label - 8, y + 17, known(say, "kind", kind), "", "end")
            for column, block in enumerate(strip):
                if (block, kind) in cells:
                    draw_bits(picture, cells[block, kind], (label + column * cell, y, cell), most)
    for row, layer in enumerate(alone):
        y = len(strips) * strip_height + row * ROW
        picture.text(label - 8, y + 17, known(say, "kind", layer.kind), "", "end")
        draw_bits(picture, layer, (label, y, max(cell, LEAST_CELL)), most)
    return picture.svg(bits_summary(layers, say))


def even_share(count: int, most: int) -> int:
    """How many to a strip, so that all strips are about as long and none has more than `most`."""
    strips = math.ceil(count / max(1, most))
    return math.ceil(count / max(1, strips)) or 1


def kinds_of(layers: Sequence[Layer]) -> list[str]:
    """The kinds of matrices that blocks have, in the order of execution."""
    return list(dict.fromkeys(layer.kind for layer in layers if layer.block is not None))


def label_width(kinds: Sequence[str], say: Words, width: int) -> float:
    """Room for the names of rows."""
    picture = Picture(width, 0)
    names = [known(say, "kind", kind) for kind in (*kinds, "embedding", "head")]
    return max(picture.width_of(name) for name in names) + 14


def draw_bits(picture: Picture, layer: Layer, place: tuple[float, float, float], most_bits: float) -> None:
    """One cell: its shade follows the logarithm of its bits."""
    x, y, width = place
    bits = layer.bits_per_weight
    shade = PALEST + (DARKEST - PALEST) * log_share(bits, LEAST_BITS, most_bits)
    tip = f"{layer.group}: {layer.format}, {significant(bits)}"
    picture.rect((x + 1, y + 1, width - 2, ROW - 2), "cell", shade=shade, tip=tip)
    number = f"{bits:.0f}" if bits >= 9.95 else f"{bits:.1f}" if width < ROOMY else f"{bits:.3g}"
    picture.text(x + width / 2, y + 17, number, "", "middle")


def bits_summary(layers: Sequence[Layer], say: Words) -> str:
    """The picture in a sentence."""
    bits = [layer.bits_per_weight for layer in layers]
    return say("layers.summary").format(
        count=len(bits), low=significant(min(bits)), high=significant(max(bits))
    )


def sensitivity_map(layers: Sequence[Layer], say: Words, width: int) -> str:
    """A small map for each kind of matrix: blocks across, formats down; the chosen ones are outlined."""
    formats = scored_formats(layers)
    scores = [score for layer in layers for score in layer.scores.values() if score > 0]
    low, high = (min(scores), max(scores)) if scores else (1e-9, 1.0)

    def shade(score: float) -> float:
        return 0.05 + 0.9 * log_share(score, low, high)

    groups = {kind: [layer for layer in layers if layer.kind == kind] for kind in kinds_of(layers)}
    groups |= {layer.kind: [layer] for layer in layers if layer.block is None and layer.scores}
    blank = Picture(width, 0, font=12)
    label = max(map(blank.width_of, formats)) + 10
    columns = 2 if blank.is_wide else 1
    panel = (width - 24 * (columns - 1)) / columns
    most = max(len(members) for members in groups.values())
    cell, row = min(30.0, (panel - label) / most), 18.0
    height = 26 + row * len(formats) + 26
    picture = Picture(width, math.ceil(len(groups) / columns) * height + 40, font=12)
    for index, (kind, members) in enumerate(groups.items()):
        left, top = index % columns * (panel + 24), index // columns * height
        picture.text(left + label, top + 14, known(say, "kind", kind), "strong")
        for line, name in enumerate(formats):
            picture.text(left + label - 8, top + 36 + line * row, name, "number", "end")
            for column, layer in enumerate(members):
                if name in layer.scores:
                    place = (left + label + column * cell, top + 23 + line * row, cell, row)
                    draw_score(picture, layer, name, place, shade)
        draw_block_numbers(picture, members, left + label, top + 23 + row * len(formats), cell)
    draw_shades(picture, shade, (low, high), picture.height - 30)
    ends = {"low": significant(low, 2), "high": significant(high, 2)}
    summary = say("sensitivity.summary").format(count=len(layers), formats=len(formats), **ends)
    return picture.svg(summary)


def scored_formats(layers: Sequence[Layer]) -> list[str]:
    """The formats that groups have scores for, those that hurt most first."""
    held: dict[str, list[float]] = {}
    for layer in layers:
        for label, score in layer.scores.items():
            held.setdefault(label, []).append(score)
    return sorted(held, key=lambda label: (-sum(held[label]) / len(held[label]), label))


def log_share(value: float, low: float, high: float) -> float:
    """How far a value is on the way from the least to the greatest, by logarithms."""
    return math.log(max(value, low) / low) / (math.log(high / low) or 1.0)


def draw_score(
    picture: Picture,
    layer: Layer,
    name: str,
    place: Box,
    shade: Callable[[float], float],
) -> None:
    """One cell of a sensitivity map."""
    x, y, width, height = place
    score = layer.scores[name]
    gap = 1 if width > 6 else 0
    tip = f"{layer.group}, {name}: {significant(score)}"
    picture.rect((x, y, width - gap, height - 1), "cell", shade=shade(score), tip=tip)
    if name == layer.format:
        radius = min(3.4, 0.42 * width)
        picture.circle(x + (width - gap) / 2, y + (height - 1) / 2, radius, "dot", tip)


def draw_block_numbers(
    picture: Picture, members: Sequence[Layer], left: float, bottom: float, cell: float
) -> None:
    """Numbers of blocks, as many as there is room for."""
    every = max(1, math.ceil(18 / cell))
    for column, layer in enumerate(members):
        if layer.block is not None and column % every == 0:
            picture.text(left + (column + 0.5) * cell, bottom + 13, str(layer.block), "number", "middle")


def draw_shades(
    picture: Picture, shade: Callable[[float], float], ends: tuple[float, float], y: float
) -> None:
    """What the shades mean, from the least score to the greatest."""
    low, high = ends
    first, last = f"{significant(low, 2)} nats", significant(high, 2)
    left = picture.width_of(first) + 8
    for step in range(LEGEND_STEPS):
        value = low * (high / low) ** (step / (LEGEND_STEPS - 1))
        picture.rect((left + 7 * step, y, 7.5, 12), "cell", shade=shade(value))
    picture.text(left - 8, y + 11, first, "number", "end")
    picture.text(left + 7 * LEGEND_STEPS + 8, y + 11, last, "number")
