"""What a bench comes to: one row a workload, medians over rounds, beside what the machine allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median

import numpy as np

from penjing.measure.cost import Roofline
from penjing.measure.machine import Machine
from penjing.optimize.bench.timeline import Stream, Timeline
from penjing.optimize.bench.workload import Workload
from penjing.spec import Spec, Tier


class Quantiles(Spec):
    """Of all samples of all rounds, in seconds."""

    p50: float
    p90: float
    p99: float


class Row(Spec):
    """One workload. Rates are medians over rounds, in tokens a second.

    prompt_tokens, output_tokens: as counted, a stream's mean. tokens_per_arrival: 1 if every token was seen
    to come by itself; a server may send several at a time, and then `inter_token` is between those.
    prefill_share, decode_share: of the limit; None where there is none to compare with.
    """

    workload: Workload
    prompt_tokens: float
    output_tokens: float
    tokens_per_arrival: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    ttft_seconds: Quantiles
    inter_token_seconds: Quantiles
    arriving_ttft_seconds: Quantiles | None
    limit: Roofline | None
    prefill_share: float | None
    decode_share: float | None


class Bench(Spec):
    """Rows in the order of the workloads. A server's tier, threads and machine are its own affair: None.

    sent: how requests were put to a server.
    """

    model: str
    tier: Tier | None = None
    threads: int | None = None
    machine: Machine | None = None
    sent: str | None = None
    rounds: int
    rows: tuple[Row, ...]


def make_row(workload: Workload, rounds: Sequence[Timeline], limit: Roofline | None, *, integer: bool) -> Row:
    """Sum up a workload's rounds. integer: whether its products are those that the limit's rate is of."""
    streams = [stream for timeline in rounds for stream in timeline.streams]
    arriving = [stream for timeline in rounds for stream in timeline.arriving or ()]
    prefill = median(timeline.prefill_rate for timeline in rounds)
    decode = median(timeline.decode_rate for timeline in rounds)
    alone = workload.arriving_tokens is None
    return Row(
        workload=workload,
        prompt_tokens=mean(stream.prompt_tokens for stream in streams),
        output_tokens=mean(stream.output_tokens for stream in streams),
        tokens_per_arrival=tokens_per_arrival(streams),
        prefill_tokens_per_second=prefill,
        decode_tokens_per_second=decode,
        ttft_seconds=quantiles(stream.ttft for stream in streams),
        inter_token_seconds=quantiles(gap for timeline in rounds for gap in timeline.gaps),
        arriving_ttft_seconds=quantiles(stream.ttft for stream in arriving) if arriving else None,
        limit=limit,
        prefill_share=prefill / limit.prefill_tokens_per_second if limit and integer else None,
        decode_share=decode / limit.decode_tokens_per_second if limit and alone else None,
    )


def quantiles(samples: Iterable[float]) -> Quantiles:
    """Of at least one sample, interpolated linearly."""
    p50, p90, p99 = np.quantile(list(samples), [0.5, 0.9, 0.99]).tolist()
    return Quantiles(p50=p50, p90=p90, p99=p99)


def tokens_per_arrival(streams: Sequence[Stream]) -> float:
    """Tokens over arrivals."""
    return sum(stream.output_tokens for stream in streams) / sum(len(stream.arrivals) for stream in streams)
