"""The report as one HTML file: nothing is fetched, and nothing needs a script to be read."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html import escape

from penjing.optimize.evaluation import UNFAMILIAR_FACTOR
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import AT_LEAST, Limit, LimitName
from penjing.report import numbers
from penjing.report.markup import filled, paragraph, table
from penjing.report.sections import sections
from penjing.report.style import SCRIPT, STYLE
from penjing.report.words import Language, Words, words


TRAILING_ZEROS = re.compile(r"\.0+(?= )")  # of 25.0 ms, typed as 25ms


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
        f"<footer>{paragraph(say('footer'))}</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def policy() -> str:
    """What a browser may run of this page: its one script, by hash. What got past escaping would be inert."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def title_of(record: SearchRecord, say: Words) -> str:
    """What the page is about."""
    name = "title" if record.outcome == "kept" else "title.infeasible"
    return say(name).format(model=record.model.name)


def opening(record: SearchRecord, title: str, say: Words) -> str:
    """The claim in one sentence, its seal, and the budget line by line."""
    issued = record.certificate.issued_at[:10] if record.certificate else ""
    caution = paragraph(say("caution"), "caution") if is_unfamiliar(record) else ""
    return (
        f'<header>\n<p class="kicker"><span>{escape(say("kicker"))}</span><span>{escape(issued)}</span></p>\n'
        f'<div class="opening"><div><h1>{escape(title)}</h1>\n<p class="claim">{claim(record, say)}</p></div>\n'
        f"{seal(record, say)}</div>\n{explanation(record, say)}{caution}\n{limits(record, say)}</header>\n"
    )


def claim(record: SearchRecord, say: Words) -> str:
    """The sentence that everything else supports; HTML."""
    if record.claim is None or record.after is None:
        return infeasible(record, say)
    size = numbers.percent(record.after.tensor_bytes / record.before.tensor_bytes)
    rise = math.expm1(record.claim.upper_nats)
    rounded = math.ceil if rise >= 0 else math.floor
    return filled(
        say("claim.kept" if rise >= 0 else "claim.better"),
        marked="loss",
        size=size,
        model=record.model.name,
        loss=numbers.percent_at_most(abs(rise), rounded),
        confidence=f"{100 * record.claim.confidence:.4g}%",
    )


def infeasible(record: SearchRecord, say: Words) -> str:
    """Which limit binds, and what could be asked instead; HTML."""
    assert record.binding is not None
    asked = next((limit.asked for limit in record.limits if limit.what == record.binding), None)
    name = say(f"limit.{record.binding}")
    if asked is not None:
        name = (
            f"{name}{say('claim.joint')}{bounded(record.binding, as_asked(record.binding, asked, say), say)}"
        )
    sentence = say("claim.infeasible" if len(record.limits) > 1 else "claim.alone")
    text = filled(sentence, marked="limit", model=record.model.name, limit=name)
    nearest = [
        f"{say(f'limit.{limit.what}')}{say('claim.joint')}{bounded(limit.what, nearest_of(limit, say), say)}"
        for limit in record.limits
        if limit.nearest is not None
    ]
    if nearest:
        text += " " + filled(say("claim.nearest"), nearest=say("claim.or").join(nearest))
    return text


def explanation(record: SearchRecord, say: Words) -> str:
    """What the sentence means, for who has never met perplexity."""
    if record.claim is None or record.certificate is None:
        return ""
    unseen = say("claim.unseen") if record.certificate.measured.text_part == "report" else ""
    text = say("claim.explained").format(tokens=f"{record.claim.tokens:,}", unseen=unseen)
    return paragraph(text, "explained")


def is_unfamiliar(record: SearchRecord) -> bool:
    """Whether the loss understates the change, as evaluation has it."""
    if record.certificate is None:
        return False
    measured = record.certificate.measured
    return measured.mean_kl > UNFAMILIAR_FACTOR * max(measured.upper_delta_nll, 0.0)


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
    if not record.limits:
        return ""
    last = "limit.found" if record.outcome == "kept" else "limit.nearest"
    head = (say("limit"), say("limit.asked"), say(last), "")
    rows = [limit_row(limit, record, say) for limit in record.limits]
    return table(head, rows, name="limits")


def limit_row(limit: Limit, record: SearchRecord, say: Words) -> tuple[str, ...]:
    """One limit: asked, found or nearest, and whether it is kept."""
    asked = bounded(limit.what, as_asked(limit.what, limit.asked, say), say)
    if record.outcome == "infeasible":
        nearest = "" if limit.nearest is None else nearest_of(limit, say)
        return say(f"limit.{limit.what}"), asked, nearest, binds(limit, record, say)
    found = "" if limit.found is None else value_of(limit.what, limit.found, say)
    verdict = {None: "", True: "✓ " + say("limit.kept"), False: "✗ " + say("limit.missed")}[limit.is_kept]
    return say(f"limit.{limit.what}"), asked, found, verdict


def binds(limit: Limit, record: SearchRecord, say: Words) -> str:
    """Whether a limit is the one that cannot be kept."""
    return "✗ " + say("limit.binds") if limit.what == record.binding else ""


def bounded(what: LimitName, value: str, say: Words) -> str:
    """A value as a limit: at most, or at least."""
    return say("at.least" if what in AT_LEAST else "at.most").format(value=value)


def as_asked(what: LimitName, value: float, say: Words) -> str:
    """A limit as it was typed."""
    if what in ("size", "loss"):
        return numbers.percent_as_given(value)
    return TRAILING_ZEROS.sub("", value_of(what, value, say))


def nearest_of(limit: Limit, say: Words) -> str:
    """What could be asked instead."""
    assert limit.nearest is not None
    return value_of(limit.what, limit.nearest, say)


def value_of(what: LimitName, value: float, say: Words) -> str:
    """A measured value in the limit's own unit."""
    if what in ("size", "loss"):
        return numbers.percent_at_most(value)
    if what == "throughput":
        return say("unit.rate").format(value=numbers.significant(value))
    if what == "latency":
        return numbers.seconds(value)
    return numbers.nbytes(value) if what == "memory" else numbers.significant(value)
