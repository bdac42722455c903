"""The sections of a report, each a function of the record; one about which nothing is known is empty."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from penjing.artifact.certificate import Measured
from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import Claim, Histogram, Sample
from penjing.report import numbers
from penjing.report.frontier import frontier_plot
from penjing.report.maps import bits_map, scored_formats, sensitivity_map
from penjing.report.markup import definitions, figure, folded, paragraph, section, table
from penjing.report.plots import claim_plot, kl_plot, loss_plot, roofline_plot, time_plot
from penjing.report.rows import POINT_HEAD, average_bits, point_row, side_rows, small_print
from penjing.report.words import Words

MOST_ROWS = 400  # of a folded table


def sections(record: SearchRecord, say: Words) -> Iterator[str]:
    """HTML of every section, in order."""
    yield sides(record, say)
    yield frontier(record, say)
    yield layers(record, say)
    yield sensitivity(record, say)
    yield roofline(record, say)
    yield time(record, say)
    yield errors(record, say)
    yield samples(record, say)
    yield use(record, say)
    yield measured(record, say)


def sides(record: SearchRecord, say: Words) -> str:
    """Before and after."""
    if record.after is None:
        return ""
    head = ("", say("before"), say("after"), say("change"))
    rows = side_rows(record.before, record.after, say)
    note = paragraph(say("sides.caption"), "note")
    return section("compared", say, f'<div class="beside">{table(head, rows)}{note}</div>')


def frontier(record: SearchRecord, say: Words) -> str:
    """Size against loss."""
    points = record.frontier
    if not points:
        return ""
    caption = say("frontier.caption")
    if record.text is not None:
        text = {"name": record.text.name, "tokens": f"{record.text.tokens:,}"}
        proof = record.certificate
        other = proof is not None and proof.measured.data_hash != record.text.sha256
        caption += say("frontier.text" if other else "frontier.text.only").format(**text)
    ordered = sorted(points, key=lambda point: point.size_ratio)[:MOST_ROWS]
    chosen = next((index for index, point in enumerate(ordered) if point.status == "chosen"), None)
    rows = [point_row(point, say) for point in ordered]
    return section(
        "frontier",
        say,
        figure(lambda width: frontier_plot(points, record.limits, say, width), caption),
        folded(say("numbers"), table(tuple(map(say, POINT_HEAD)), rows, chosen=chosen)),
    )


def layers(record: SearchRecord, say: Words) -> str:
    """Bits of every group."""
    held = record.layers
    if not held:
        return ""
    rows = [
        (layer.group, layer.format, numbers.significant(layer.bits_per_weight), numbers.nbytes(layer.nbytes))
        for layer in held[:MOST_ROWS]
    ]
    head = (say("group"), say("format"), say("bits"), say("bytes"))
    caption = say("layers.caption").format(average=average_bits(held))
    return section(
        "layers",
        say,
        figure(lambda width: bits_map(held, say, width), caption),
        folded(say("numbers"), table(head, rows)),
    )


def sensitivity(record: SearchRecord, say: Words) -> str:
    """What each format would do to each group."""
    held = record.layers
    if not any(layer.scores for layer in held):
        return ""
    formats = scored_formats(held)
    rows = [
        (layer.group, *(score_cell(layer.scores.get(label)) for label in formats))
        for layer in held[:MOST_ROWS]
    ]
    return section(
        "sensitivity",
        say,
        figure(lambda width: sensitivity_map(held, say, width), say("sensitivity.caption")),
        folded(say("numbers"), table((say("group"), *formats), rows)),
    )


def score_cell(score: float | None) -> str:
    """A predicted KL, if there is one."""
    return "" if score is None else numbers.significant(score, 2)


def roofline(record: SearchRecord, say: Words) -> str:
    """The machine's limits."""
    roof = record.roofline
    if roof is None:
        return ""
    caption = say("roofline.caption").format(
        read=numbers.scaled(roof.read_bytes_per_second, "B/s"),
        compute=numbers.scaled(roof.int8_operations_per_second, "OP/s"),
    )
    return section("roofline", say, figure(lambda width: roofline_plot(roof, say, width), caption))


def time(record: SearchRecord, say: Words) -> str:
    """Where a decoded token's time goes."""
    parts = record.time
    if not parts:
        return ""
    caption = say("time.caption").format(total=numbers.seconds(sum(part.seconds for part in parts)))
    return section("time", say, figure(lambda width: time_plot(parts, say, width), caption))


def errors(record: SearchRecord, say: Words) -> str:
    """The claim, and differences of loss and KL, token by token."""
    held, claim, certificate = record.errors, record.claim, record.certificate
    if held is None or claim is None or certificate is None:
        return ""
    limit = record.budget.max_loss
    return section(
        "errors",
        say,
        figure(lambda width: claim_plot(claim, limit, say, width), say("claim.drawn")),
        differences(held.loss, claim, say),
        divergences(held.kl, certificate.measured, say),
    )


def differences(histogram: Histogram, claim: Claim, say: Words) -> str:
    """The histogram of losses, with the mean and its bound."""
    mean, upper = numbers.signed(claim.mean_nats), numbers.signed(claim.upper_nats)
    markers = [
        (claim.mean_nats, "mean", say("mean.at").format(value=mean)),
        (claim.upper_nats, "upper", say("bound.at").format(value=upper)),
    ]
    label = say("errors.loss.summary").format(tokens=f"{histogram.total:,}", mean=mean)
    caption = say("errors.loss.caption").format(below=f"{histogram.below:,}", above=f"{histogram.above:,}")
    return figure(lambda width: loss_plot(histogram, markers, say, width, label), caption)


def divergences(histogram: Histogram, measured: Measured, say: Words) -> str:
    """The histogram of KL, with its mean and what 99% are below."""
    mean, p99 = numbers.significant(measured.mean_kl), numbers.significant(measured.p99_kl)
    markers = [
        (measured.mean_kl, "mean", say("mean.at").format(value=mean)),
        (measured.p99_kl, "mean", say("p99.at").format(value=p99)),
    ]
    caption = say("errors.kl.caption").format(
        agreement=say("errors.agreement").format(share=numbers.percent(measured.top1_agreement)),
        below=f"{histogram.below:,}",
        floor=numbers.significant(histogram.edges[0], 1),
    )
    label = say("errors.kl.summary").format(tokens=f"{histogram.total:,}")
    return figure(lambda width: kl_plot(histogram, markers, say, width, label), caption)


def samples(record: SearchRecord, say: Words) -> str:
    """Completions side by side."""
    if not record.samples:
        return ""
    articles = "\n".join(sample_article(sample, say) for sample in record.samples)
    return section("samples", say, paragraph(say("samples.caption"), "note"), articles)


def sample_article(sample: Sample, say: Words) -> str:
    """One prompt and what both made of it."""
    shared = shared_length(sample.before, sample.after)
    heading = say("after")
    if sample.before == sample.after:
        heading = f"{heading} · {say('samples.same')}"
    return (
        f"<article><h3>{escape(say('samples.prompt'))}</h3><pre>{escape(sample.prompt)}</pre>"
        f'<div class="sides"><div><h3>{escape(say("before"))}</h3>{completion(sample.before, shared)}</div>'
        f"<div><h3>{escape(heading)}</h3>{completion(sample.after, shared)}</div></div></article>"
    )


def shared_length(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def completion(text: str, shared: int) -> str:
    """A text whose first `shared` characters are those of the other."""
    return f'<pre><span class="same">{escape(text[:shared])}</span>{escape(text[shared:])}</pre>'


def use(record: SearchRecord, say: Words) -> str:
    """How to serve and verify it."""
    if record.commands is None:
        return ""
    return section(
        "use",
        say,
        command(record.commands.serve, say),
        paragraph(say("use.serve")),
        command(record.commands.verify, say),
        paragraph(say("use.verify")),
    )


def command(typed: str, say: Words) -> str:
    """A command and a button that copies it."""
    button = (
        f'<button type="button" hidden data-copied="{escape(say("copied"))}">{escape(say("copy"))}</button>'
    )
    return f'<div class="command"><pre>{escape(typed)}</pre>{button}</div>'


def measured(record: SearchRecord, say: Words) -> str:
    """How it was measured, in small print."""
    return section("measured", say, method(record, say), definitions(list(small_print(record, say))))


def method(record: SearchRecord, say: Words) -> str:
    """What the bound is, in two sentences."""
    claim, certificate = record.claim, record.certificate
    if claim is None or certificate is None:
        return ""
    text = say("measured.method").format(
        confidence=f"{100 * claim.confidence:.4g}%",
        units=claim.units,
        unit=say(f"unit.{claim.unit}"),
        tokens=f"{claim.tokens:,}",
        window=certificate.measured.window_tokens,
    )
    return paragraph(text, "small")
