"""The report as one HTML file: nothing is fetched, and nothing needs a script to be read."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from penjing.optimize.record import SearchRecord
from penjing.report.markup import filled, paragraph, table
from penjing.report.sections import sections
from penjing.report.style import SCRIPT, STYLE
from penjing.report.verdict import claim, explanation, is_unfamiliar, limit_rows, limits_head, title_of
from penjing.report.words import Language, Words, words


def render_page(record: SearchRecord, language: Language = "en") -> str:
    """A whole HTML document. Names and samples from outside are text in it, never markup."""
    say = words(language)
    title = title_of(record, say)
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body class="{record.outcome}">\n<main>\n{opening(record, title, say)}'
        f"{''.join(sections(record, say))}</main>\n"
        f"<footer>{paragraph(say(f'footer.{record.outcome}'))}</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def policy() -> str:
    """What a browser may run of this page: its one script, by hash. What got past escaping would be inert."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def opening(record: SearchRecord, title: str, say: Words) -> str:
    """The claim in one sentence, its seal, and the budget line by line."""
    issued = record.certificate.issued_at[:10] if record.certificate else ""
    template, values, marked = claim(record, say)
    explained = explanation(record, say)
    return (
        f'<header>\n<p class="kicker"><span>{escape(say("kicker"))}</span><span>{escape(issued)}</span></p>\n'
        f'<div class="opening"><div><h1>{escape(title)}</h1>\n'
        f'<p class="claim">{filled(template, marked, values)}</p></div>\n{seal(record, say)}</div>\n'
        + (paragraph(explained, "explained") if explained else "")
        + (paragraph(say("caution"), "caution") if is_unfamiliar(record) else "")
        + f"{limits(record, say)}</header>\n"
    )


def seal(record: SearchRecord, say: Words) -> str:
    """The verdict, as a seal has it: filled where the budget is kept, an empty frame where it is not."""
    words_on_it, long = say(f"seal.{record.outcome}"), say(f"seal.{record.outcome}.long")
    return (
        f'<svg class="seal" viewBox="0 0 86 86" role="img" aria-label="{escape(long)}">'
        '<rect x="1" y="1" width="84" height="84" rx="7"/>'
        '<rect class="inner" x="6" y="6" width="74" height="74" rx="4"/>'
        f'<text x="43" y="44">{escape(words_on_it.upper())}</text>'
        f'<text class="small" x="43" y="61">PENJING</text></svg>'
    )


def limits(record: SearchRecord, say: Words) -> str:
    """The budget, line by line."""
    return table(limits_head(record, say), limit_rows(record, say), name="limits") if record.limits else ""
