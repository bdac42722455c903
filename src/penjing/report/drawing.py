"""A picture in SVG: lines, shapes and words, coloured by the page's style sheet so that dark mode works."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from penjing.report.scales import Scale

WIDE = 560  # pictures at least this wide have room for more
AXIS = 52.0  # height of what is below a picture's lower line
LETTER = 0.56  # width of a letter over the size of its font, about
WIDE_LETTER = 1.0  # of Chinese
Box = tuple[float, float, float, float]  # left, top, width, height


class Picture:
    """Shapes in the order they are painted. Units are CSS pixels where the picture is shown at its own width.

    narrow: the height where the picture is no `WIDE` one, if it is another. bottom: where its lower axis is.
    `style` of a shape is a class of the style sheet (style.py); `tip` is shown when pointed at.
    """

    def __init__(
        self, width: float, height: float, narrow: float | None = None, font: float | None = None
    ) -> None:
        self.is_wide = width >= WIDE
        self.width, self.height = width, height if self.is_wide or narrow is None else narrow
        self.bottom = self.height - AXIS
        self.font = font or (12.5 if self.is_wide else 12.0)
        self.parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str = "grid") -> None:
        """A straight line."""
        self.parts.append(f'<path class="{style}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')

    def path(self, points: list[tuple[float, float]], style: str, *, closed: bool = False) -> None:
        """A line through points."""
        places = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f'<path class="{style}" d="M{places}{"Z" if closed else ""}"/>')

    def rect(self, box: Box, style: str, *, shade: float = 1.0, tip: str = "") -> None:
        """A rectangle; shade: opacity of its filling."""
        x, y, width, height = box
        size = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        filling = f' fill-opacity="{shade:.3f}"' if shade < 1 else ""
        self.parts.append(f'<rect class="{style}" {size}{filling}{ending("rect", tip)}')

    def circle(self, x: float, y: float, radius: float, style: str, tip: str = "") -> None:
        """A circle."""
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
        self.parts.append(f'<circle class="{style}" {place}{ending("circle", tip)}')

    def diamond(self, x: float, y: float, radius: float, style: str, tip: str = "") -> None:
        """A square on its corner."""
        corners = f"M{x:.1f} {y - radius:.1f}l{radius} {radius}l{-radius} {radius}l{-radius} {-radius}Z"
        self.parts.append(f'<path class="{style}" d="{corners}"{ending("path", tip)}')

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Words on the base line y; anchor: start, middle or end."""
        kind = f' class="{style}"' if style else ""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self.parts.append(f"<text {place}{kind}>{escape(words)}</text>")

    def width_of(self, words: str) -> float:
        """About how wide words will be."""
        return sum(WIDE_LETTER if ord(letter) > 0x2E80 else LETTER for letter in words) * self.font

    def svg(self, label: str) -> str:
        """The whole element; `label` says in words what it shows, for those who cannot see it."""
        return (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" '
            f'height="{self.height:.0f}" font-size="{self.font:g}" role="img" aria-label="{escape(label)}">'
            f"<desc>{escape(label)}</desc>{''.join(self.parts)}</svg>"
        )


def ending(tag: str, tip: str) -> str:
    """The end of a shape's tag, with what is shown when it is pointed at."""
    return f"><title>{escape(tip)}</title></{tag}>" if tip else "/>"


def bottom_axis(
    picture: Picture, scale: Scale, title: str, count: int, label: Callable[[float], str]
) -> None:
    """About `count` marks and numbers below a line, and what they count."""
    y = picture.bottom
    picture.line(scale.start, y, scale.end, y, "axis")
    for value in scale.ticks(count):
        x, words = scale.at(value), label(value)
        picture.line(x, y, x, y + 4, "axis")
        half = picture.width_of(words) / 2
        picture.text(min(x, picture.width - half), y + 18, words, "number", "middle")
    picture.text((scale.start + scale.end) / 2, y + 38, title, "title", "middle")


def left_axis(
    picture: Picture, scale: Scale, across: Scale, count: int, label: Callable[[float], str]
) -> None:
    """About `count` numbers on the left, and fine lines from them across."""
    for value in scale.ticks(count):
        y = scale.at(value)
        picture.line(across.start, y, across.end, y, "grid")
        picture.text(across.start - 7, y + 4, label(value), "number", "end")
