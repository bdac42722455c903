"""Pieces of HTML. Arguments named `words` are text and escaped here; those named `html` are HTML already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from penjing.report.words import Words

WIDE, NARROW = 688, 340  # CSS pixels: the width of the text on a desk and on a telephone
Row = tuple[str, ...]


def section(name: str, say: Words, *html: str) -> str:
    """A part of the page, with its heading; parts that are empty are left out."""
    body = "\n".join(part for part in html if part)
    return f'<section id="{name}" class="{name}">\n<h2>{escape(say(name))}</h2>\n{body}\n</section>\n'


def figure(draw: Callable[[int], str], words: str) -> str:
    """A picture, drawn once for wide screens and paper and once for narrow ones, and its caption."""
    return (
        f'<figure class="beside"><div><div class="wide">{draw(WIDE)}</div>'
        f'<div class="narrow">{draw(NARROW)}</div></div>'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def table(head: Row, rows: Sequence[Row], *, chosen: int | None = None, name: str = "") -> str:
    """Rows of text below a heading; `chosen`: the row that is marked."""
    cells = "".join(f'<th scope="col">{escape(words)}</th>' for words in head)
    body = "\n".join(table_row(row, marked=index == chosen) for index, row in enumerate(rows))
    kind = f' class="{name}"' if name else ""
    return f"<table{kind}><thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def table_row(row: Row, *, marked: bool = False) -> str:
    """One row; its first cell names it."""
    first, *others = row
    cells = "".join(f"<td>{escape(words)}</td>" for words in others)
    kind = ' class="chosen"' if marked else ""
    return f'<tr{kind}><th scope="row">{escape(first)}</th>{cells}</tr>'


def folded(words: str, html: str) -> str:
    """What is there for those who ask for it."""
    return f'<details><summary>{escape(words)}</summary><div class="scroll">{html}</div></details>'


def paragraph(words: str, name: str = "") -> str:
    """A paragraph of text."""
    kind = f' class="{name}"' if name else ""
    return f"<p{kind}>{escape(words)}</p>"


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and what they stand for."""
    return (
        "<dl>" + "".join(f"<dt>{escape(one)}</dt><dd>{escape(other)}</dd>" for one, other in pairs) + "</dl>"
    )


def filled(template: str, marked: str, values: Mapping[str, str]) -> str:
    """A phrase as HTML, its values escaped; that of the place `marked` stands out."""
    safe = {name: escape(value) for name, value in values.items()}
    return escape(template).format_map(safe | {marked: f"<b>{safe[marked]}</b>"})
