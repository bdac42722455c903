"""A model card in Markdown, from a search's record: what the page says, without its pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import Sample
from penjing.report import numbers
from penjing.report.rows import POINT_HEAD, average_bits, point_row, side_rows, small_print
from penjing.report.verdict import claim, explanation, is_unfamiliar, limit_rows, limits_head, title_of
from penjing.report.words import Language, Words, words

SPECIAL = re.compile(r"([\\`*_\[\]|])")
Row = Sequence[str]


def render_card(record: SearchRecord, language: Language = "en") -> str:
    """Markdown with tables. Names and samples from outside are text in it, neither markup nor HTML."""
    say = words(language)
    return "\n\n".join(part for part in parts(record, say) if part) + "\n"


def parts(record: SearchRecord, say: Words) -> Iterator[str]:
    """The card's parts in order; one about which nothing is known is empty."""
    template, values, _ = claim(record, say)
    yield f"# {plain(title_of(record, say))}"
    yield f"**{say(f'seal.{record.outcome}.long')}**{say('stop')}" + plain(template.format_map(values))
    yield plain(explanation(record, say))
    yield f"> {say('caution')}" if is_unfamiliar(record) else ""
    yield table(limits_head(record, say), limit_rows(record, say))
    if record.after is not None:
        head = ("", say("before"), say("after"), say("change"))
        yield titled(say("compared"), table(head, side_rows(record.before, record.after, say)))
    yield titled(say("frontier"), frontier(record, say))
    yield titled(say("layers"), layers(record, say))
    samples = "\n\n".join(sample(one, say) for one in record.samples)
    yield titled(say("samples"), samples)
    if record.commands is not None:
        yield titled(say("use"), fenced(f"{record.commands.serve}\n{record.commands.verify}"))
    rows = [f"- {name}{say('colon')}{plain(value)}" for name, value in small_print(record, say)]
    yield titled(say("measured"), "\n".join(rows))


def frontier(record: SearchRecord, say: Words) -> str:
    """What was measured, by size."""
    shown = [point for point in record.frontier if point.status != "predicted"]
    rows = [point_row(point, say) for point in sorted(shown, key=lambda point: point.size_ratio)]
    return table(tuple(map(say, POINT_HEAD)), rows)


def layers(record: SearchRecord, say: Words) -> str:
    """How many groups have which format, and the bits of them all."""
    if not record.layers:
        return ""
    counts = Counter(layer.format for layer in record.layers)
    sizes = {name: sum(one.nbytes for one in record.layers if one.format == name) for name in counts}
    rows = [(name, str(count), numbers.nbytes(sizes[name])) for name, count in counts.most_common()]
    head = (say("format"), say("groups"), say("bytes"))
    return say("layers.average").format(average=average_bits(record.layers)) + "\n\n" + table(head, rows)


def sample(one: Sample, say: Words) -> str:
    """A prompt and both completions."""
    pairs = (("samples.prompt", one.prompt), ("before", one.before), ("after", one.after))
    return "\n\n".join(f"{say(name)}{say('colon').rstrip()}\n\n{fenced(text)}" for name, text in pairs)


def titled(title: str, body: str) -> str:
    """A part with its heading, if there is anything in it."""
    return f"## {title}\n\n{body}" if body else ""


def table(head: Row, rows: Sequence[Row]) -> str:
    """A table whose first column is a name and whose others are numbers; nothing without rows."""
    if not rows:
        return ""
    marks = ["---", *("---:" for _ in head[1:])]
    lines = (head, marks, *([plain(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text on one line, in which nothing is markup."""
    return escape(SPECIAL.sub(r"\\\1", text.replace("\n", " ")), quote=False)


def fenced(text: str) -> str:
    """Text as it is, between fences longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
