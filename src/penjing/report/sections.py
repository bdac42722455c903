"""The sections of a report, each a function of the record; one about which nothing is known is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import Claim, Figures, Layer, Point, Sample
from penjing.report import numbers
from penjing.report.frontier import frontier_plot
from penjing.report.frontier import rise as rise_of
from penjing.report.maps import bits_map, scored_formats, sensitivity_map
from penjing.report.markup import definitions, figure, folded, paragraph, section, table
from penjing.report.plots import Marker, claim_plot, kl_plot, loss_plot, roofline_plot, time_plot
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
    note = f'<p class="note">{escape(say("sides.caption"))}</p>'
    return section("compared", say("sides"), f'<div class="beside">{table(head, rows)}{note}</div>')


def side_rows(before: Figures, after: Figures, say: Words) -> list[tuple[str, ...]]:
    """What, before, after, change; what was measured on neither side is left out."""
    found: list[tuple[str, ...]] = [
        (
            say("sides.bytes"),
            numbers.nbytes(before.tensor_bytes),
            numbers.nbytes(after.tensor_bytes),
            numbers.percent(after.tensor_bytes / before.tensor_bytes),
        )
    ]
    if before.perplexity is not None and after.perplexity is not None:
        rise = after.perplexity / before.perplexity - 1
        signed = ("+" if rise > 0 else "") + numbers.percent(rise, 2)
        sides = (numbers.significant(value, 4) for value in (before.perplexity, after.perplexity))
        found.append((say("sides.perplexity"), *sides, signed))
    measures = (
        ("prefill", before.prefill_tokens_per_second, after.prefill_tokens_per_second, numbers.significant),
        ("decode", before.decode_tokens_per_second, after.decode_tokens_per_second, numbers.significant),
        ("ttft", before.ttft_seconds, after.ttft_seconds, numbers.seconds),
        ("memory", before.peak_memory_bytes, after.peak_memory_bytes, numbers.nbytes),
    )
    for name, one, other, write in measures:
        if one is not None or other is not None:
            times = numbers.ratio if write is numbers.significant else part
            change = times(other, one) if one is not None and other is not None else ""
            cells = ("–" if value is None else write(value) for value in (one, other))
            found.append((say(f"sides.{name}"), *cells, change))
    return found


def part(after: float, before: float) -> str:
    """What is left of a quantity of which less is better."""
    return numbers.percent(after / before)


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
    head = ("name", "size", "mean", "bound", "kl", "speed", "how")
    ordered = sorted(points, key=lambda point: point.size_ratio)[:MOST_ROWS]
    chosen = next((index for index, point in enumerate(ordered) if point.status == "chosen"), None)
    rows = [point_row(point, say) for point in ordered]
    return section(
        "frontier",
        say("frontier"),
        figure(lambda width: frontier_plot(points, record.limits, say, width), caption),
        folded(say("numbers"), table(tuple(map(say, head)), rows, chosen=chosen)),
    )


def point_row(point: Point, say: Words) -> tuple[str, ...]:
    """One candidate in numbers."""
    rate = point.decode_tokens_per_second
    mean = rise_of(point.model_copy(update={"upper_loss": None}))
    return (
        point.name,
        numbers.percent(point.size_ratio, 2),
        f"{numbers.signed(100 * mean)}%",
        "" if point.upper_loss is None else f"{numbers.signed(100 * rise_of(point))}%",
        "" if point.mean_kl is None else numbers.significant(point.mean_kl),
        "" if rate is None else numbers.significant(rate),
        say(f"status.{point.status}"),
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
        say("layers"),
        figure(lambda width: bits_map(held, say, width), caption),
        folded(say("numbers"), table(head, rows)),
    )


def average_bits(layers: Sequence[Layer]) -> str:
    """Bits of all weights over their number."""
    elements = sum(8 * layer.nbytes / layer.bits_per_weight for layer in layers)
    return numbers.significant(8 * sum(layer.nbytes for layer in layers) / elements)


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
        say("sensitivity"),
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
    return section(
        "roofline", say("roofline"), figure(lambda width: roofline_plot(roof, say, width), caption)
    )


def time(record: SearchRecord, say: Words) -> str:
    """Where a decoded token's time goes."""
    parts = record.time
    if not parts:
        return ""
    caption = say("time.caption").format(total=numbers.seconds(sum(part.seconds for part in parts)))
    return section("time", say("time"), figure(lambda width: time_plot(parts, say, width), caption))


def errors(record: SearchRecord, say: Words) -> str:
    """Differences of loss and KL, token by token."""
    held = record.errors
    if held is None:
        return ""
    label = say("errors.loss.summary").format(
        tokens=f"{held.loss.total:,}", mean=numbers.signed(record.claim.mean_nats) if record.claim else "?"
    )
    caption = say("errors.loss.caption").format(below=f"{held.loss.below:,}", above=f"{held.loss.above:,}")
    return section(
        "errors",
        say("errors"),
        drawn_claim(record, say),
        figure(
            lambda width: loss_plot(held.loss, loss_markers(record.claim, say), say, width, label), caption
        ),
        divergence(record, say),
    )


def drawn_claim(record: SearchRecord, say: Words) -> str:
    """The mean, the bound and the limit, to scale."""
    claim = record.claim
    if claim is None:
        return ""
    limit = record.budget.max_loss
    return figure(lambda width: claim_plot(claim, limit, say, width), say("claim.drawn"))


def loss_markers(claim: Claim | None, say: Words) -> list[Marker]:
    """The mean and its bound."""
    if claim is None:
        return []
    mean, upper = claim.mean_nats, claim.upper_nats
    return [
        (mean, "mean", say("mean.at").format(value=numbers.signed(mean))),
        (upper, "upper", say("bound.at").format(value=numbers.signed(upper))),
    ]


def divergence(record: SearchRecord, say: Words) -> str:
    """The histogram of KL."""
    assert record.errors is not None
    histogram, certificate = record.errors.kl, record.certificate
    markers: list[Marker] = []
    agreement = ""
    if certificate is not None:
        measured = certificate.measured
        markers = [
            (measured.mean_kl, "mean", say("mean.at").format(value=numbers.significant(measured.mean_kl))),
            (measured.p99_kl, "mean", say("p99.at").format(value=numbers.significant(measured.p99_kl))),
        ]
        agreement = say("errors.agreement").format(share=numbers.percent(measured.top1_agreement))
    caption = say("errors.kl.caption").format(
        agreement=agreement, below=f"{histogram.below:,}", floor=numbers.significant(histogram.edges[0], 1)
    )
    label = say("errors.kl.summary").format(tokens=f"{histogram.total:,}")
    return figure(lambda width: kl_plot(histogram, markers, say, width, label), caption)


def samples(record: SearchRecord, say: Words) -> str:
    """Completions side by side."""
    if not record.samples:
        return ""
    articles = "\n".join(sample_article(sample, say) for sample in record.samples)
    return section("samples", say("samples"), paragraph(say("samples.caption"), "note"), articles)


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
        say("use"),
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
    return section(
        "measured", say("measured"), method(record, say), definitions(list(small_print(record, say)))
    )


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


def small_print(record: SearchRecord, say: Words) -> Iterator[tuple[str, str]]:
    """What it takes to measure it again."""
    model, certificate = record.model, record.certificate
    parameters = numbers.significant(model.parameters / 1e6)
    about = say("measured.model.value").format(name=model.name, family=model.family, parameters=parameters)
    yield say("measured.model"), about
    yield say("measured.objective"), objective(record, say)
    if record.artifact_hash is not None:
        yield say("measured.artifact"), record.artifact_hash
    yield say("measured.source"), model.source_hash
    text = say("measured.text.value")
    if certificate is not None:
        measured = certificate.measured
        yield say("measured.text"), text.format(name=measured.data_name, hash=measured.data_hash)
    if record.text is not None:
        yield say("measured.choice"), text.format(name=record.text.name, hash=record.text.sha256)
    host = certificate.measured_on if certificate is not None else record.host
    if host is not None:
        machine = say("measured.machine.value").format(cpu=host.cpu_model, isa=host.isa, threads=host.threads)
        yield say("measured.machine"), machine
    if certificate is not None and certificate.load is not None:
        load = certificate.load
        yield (
            say("measured.load"),
            say("measured.load.value").format(
                streams=load.streams,
                prompt=load.prompt_tokens,
                output=load.output_tokens,
                p95=numbers.seconds(load.p95_seconds_per_token),
            ),
        )
    versions = certificate.versions if certificate is not None else record.versions
    if versions:
        yield say("measured.versions"), ", ".join(f"{name} {number}" for name, number in versions.items())
    if certificate is not None:
        yield say("measured.seed"), str(certificate.seed)
        yield say("measured.issued"), certificate.issued_at
    if record.stages:
        spent = ", ".join(f"{stage.name} {numbers.seconds(stage.seconds)}" for stage in record.stages)
        yield say("measured.stages"), spent


def objective(record: SearchRecord, say: Words) -> str:
    """What was sought among those that keep the budget."""
    text = say(f"objective.{record.objective}")
    if record.price_per_hour is None:
        return text
    return text + say("measured.price").format(price=numbers.significant(record.price_per_hour))
