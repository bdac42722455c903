"""The verdict of a search in words, for a page and a model card alike: the claim, and the budget's limits."""

from __future__ import annotations

import math
import re

from penjing.optimize.evaluation import UNFAMILIAR_FACTOR
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import AT_LEAST, Limit, LimitName
from penjing.report import numbers
from penjing.report.words import Words

TRAILING_ZEROS = re.compile(r"\.0+(?=\s)")  # of 25.0 ms, typed as 25ms


def title_of(record: SearchRecord, say: Words) -> str:
    """What the page is about."""
    name = "title" if record.outcome == "kept" else "title.infeasible"
    return say(name).format(model=record.model.name)


def claim(record: SearchRecord, say: Words) -> tuple[str, dict[str, str], str]:
    """The sentence that everything else supports: a phrase, what fills its places, which of them matters."""
    if record.claim is None or record.after is None:
        return infeasible(record, say)
    rise = math.expm1(record.claim.upper_nats)
    values = {
        "size": numbers.percent(record.after.tensor_bytes / record.before.tensor_bytes),
        "model": record.model.name,
        "loss": numbers.percent_at_most(abs(rise), math.ceil if rise >= 0 else math.floor),
        "confidence": f"{100 * record.claim.confidence:.4g}%",
    }
    return say("claim.kept" if rise >= 0 else "claim.better"), values, "loss"


def infeasible(record: SearchRecord, say: Words) -> tuple[str, dict[str, str], str]:
    """Which limit binds."""
    what = record.binding
    assert what is not None
    asked = next((as_asked(what, limit.asked, say) for limit in record.limits if limit.what == what), None)
    limit = say(f"limit.{what}") if asked is None else say(f"claim.{what}").format(value=asked)
    return say("claim.infeasible"), {"model": record.model.name, "limit": limit}, "limit"


def explanation(record: SearchRecord, say: Words) -> str:
    """What the sentence means, for who has never met perplexity; or what could be asked instead."""
    if record.claim is None or record.certificate is None:
        nearest = [
            say(f"claim.{limit.what}").format(value=value_of(limit.what, limit.nearest, say))
            for limit in record.limits
            if limit.nearest is not None
        ]
        instead = say("claim.nearest").format(nearest=say("claim.or").join(nearest))
        return instead if nearest else ""
    unseen = say("claim.unseen") if record.certificate.measured.text_part == "report" else ""
    return say("claim.explained").format(tokens=f"{record.claim.tokens:,}", unseen=unseen)


def is_unfamiliar(record: SearchRecord) -> bool:
    """Whether the loss understates the change, as evaluation has it."""
    if record.certificate is None:
        return False
    measured = record.certificate.measured
    return measured.mean_kl > UNFAMILIAR_FACTOR * max(measured.upper_delta_nll, 0.0)


def limits_head(record: SearchRecord, say: Words) -> tuple[str, ...]:
    """The heading of the limits."""
    last = "limit.found" if record.outcome == "kept" else "limit.nearest"
    return say("limit"), say("limit.asked"), say(last), ""


def limit_rows(record: SearchRecord, say: Words) -> list[tuple[str, ...]]:
    """Each limit: asked, found or nearest, and whether it is kept."""
    return [limit_row(limit, record, say) for limit in record.limits]


def limit_row(limit: Limit, record: SearchRecord, say: Words) -> tuple[str, ...]:
    """One limit: asked, found or nearest, and whether it is kept or is the one that cannot be."""
    name = say(f"limit.{limit.what}")
    if limit.what not in ("size", "loss") and record.budget.streams > 1:  # it holds for so many
        name = say("limit.streams").format(name=name, streams=record.budget.streams)
    asked = bounded(limit.what, as_asked(limit.what, limit.asked, say), say)
    if record.outcome == "infeasible":
        shown, verdict = limit.nearest, "✗\u00a0" + say("limit.binds") if limit.what == record.binding else ""
    else:
        marks = {None: "", True: "✓\u00a0" + say("limit.kept"), False: "✗\u00a0" + say("limit.missed")}
        shown, verdict = limit.found, marks[limit.is_kept]
    return name, asked, "" if shown is None else value_of(limit.what, shown, say), verdict


def bounded(what: LimitName, value: str, say: Words) -> str:
    """A value as a limit: at most, or at least."""
    return say("at.least" if what in AT_LEAST else "at.most").format(value=value)


def as_asked(what: LimitName, value: float, say: Words) -> str:
    """A limit as it was typed."""
    if what in ("size", "loss"):
        return numbers.percent_as_given(value)
    return TRAILING_ZEROS.sub("", value_of(what, value, say))


def value_of(what: LimitName, value: float, say: Words) -> str:
    """A measured value in the limit's own unit."""
    if what in ("size", "loss"):
        return numbers.percent_at_most(value)
    if what == "throughput":
        return say("unit.rate").format(value=numbers.significant(value))
    if what == "latency":
        return numbers.seconds(value)
    return numbers.nbytes(value) if what == "memory" else numbers.significant(value)
