"""Loss curves as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Curve = Sequence[tuple[float, float]]

WIDTH, HEIGHT, MARGIN = 640, 320, 44
COLOURS = ("#7a9e7e", "#b5523b", "#4a6d8c", "#8a6d3b")


def curves_svg(title: str, curves: Mapping[str, Curve], unit: str = "") -> str:
    """The curves over one axis from 0, as many as there are colours; `unit` follows its last number."""
    points = [point for curve in curves.values() for point in curve] or [(0.0, 0.0), (1.0, 1.0)]
    right, low, high = max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)

    def place(x: float, y: float) -> str:
        across = MARGIN + x / max(right, 1e-9) * (WIDTH - 2 * MARGIN)
        down = MARGIN + (high - y) / max(high - low, 1e-9) * (HEIGHT - 2 * MARGIN)
        return f"{across:.1f},{down:.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" '
        f'points="{" ".join(place(x, y) for x, y in curve)}"/>'
        for curve, colour in zip(curves.values(), COLOURS, strict=False)
    ]
    labels = [
        text(MARGIN, 20, title, "#333"),
        text(4, MARGIN + 4, f"{high:.2f}", "#333"),
        text(4, HEIGHT - MARGIN + 4, f"{low:.2f}", "#333"),
        text(MARGIN, HEIGHT - 20, "0", "#333"),
        text(WIDTH - MARGIN - 24, HEIGHT - 20, f"{right:.0f}{unit}", "#333"),
        *(
            text(WIDTH - MARGIN - 76 - 80 * (len(curves) - 1 - i), MARGIN + 10, name, colour)
            for i, (name, colour) in enumerate(zip(curves, COLOURS, strict=False))
        ),
    ]
    frame = (
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{WIDTH - 2 * MARGIN}" height="{HEIGHT - 2 * MARGIN}" '
        'fill="none" stroke="#999"/>'
    )
    body = "\n".join([frame, *lines, *labels])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, colour: str) -> str:
    """One line of text, escaped."""
    font = f'font-family="sans-serif" font-size="12" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {font}>{escape(words)}</text>'
