"""Rows of text that a page and a model card share: before and after, candidates, the small print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import Figures, Layer, Point
from penjing.report import numbers
from penjing.report.frontier import rise as rise_of
from penjing.report.words import Words, known

POINT_HEAD = (
    "name",
    "size",
    "mean",
    "bound",
    "kl",
    "speed",
    "how",
)  # phrases above the columns of `point_row`


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
            change = ""
            if one is not None and other is not None:  # of what less is better, what is left of it
                is_rate = write is numbers.significant
                change = numbers.ratio(other, one) if is_rate else numbers.percent(other / one)
            cells = ("–" if value is None else write(value) for value in (one, other))
            found.append((say(f"sides.{name}"), *cells, change))
    return found


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


def average_bits(layers: Sequence[Layer]) -> str:
    """Bits of all weights over their number."""
    elements = sum(8 * layer.nbytes / layer.bits_per_weight for layer in layers)
    return numbers.significant(8 * sum(layer.nbytes for layer in layers) / elements)


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
        spent = ", ".join(
            f"{known(say, 'stage', stage.name)} {numbers.seconds(stage.seconds)}" for stage in record.stages
        )
        yield say("measured.stages"), spent


def objective(record: SearchRecord, say: Words) -> str:
    """What was sought among those that keep the budget."""
    text = say(f"objective.{record.objective}")
    if record.price_per_hour is None:
        return text
    return text + say("measured.price").format(price=numbers.significant(record.price_per_hour))
