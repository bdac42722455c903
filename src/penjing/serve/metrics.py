"""Prometheus metrics, one registry an application, so that two can live in one process.

Counters and gauges that the engine keeps are read from its last snapshot when scraped; latencies are observed
as events happen. Names follow vLLM's, so that its dashboards need only another prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penjing.engine.outputs import EngineStats, FinishReason

LABELS = ("model_name",)
FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
BETWEEN_TOKENS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
REQUEST_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 240, 480, 960)

GAUGES: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("num_requests_running", "Answers being generated.", lambda stats: stats.running),
    ("num_requests_waiting", "Answers waiting for pages or a slot.", lambda stats: stats.waiting),
    (
        "kv_cache_usage_ratio",
        "Pages in use over all pages; 1 is full.",
        lambda stats: stats.pages_used / max(1, stats.pages_total),
    ),
)
COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], int]], ...] = (
    ("prompt_tokens", "Tokens of prompts, once for each answer.", lambda stats: stats.prompt_tokens),
    ("generation_tokens", "Tokens generated.", lambda stats: stats.generated_tokens),
    ("prefix_hit_tokens", "Prompt tokens found in the prefix cache.", lambda stats: stats.prefix_hit_tokens),
    ("num_preemptions", "Answers that gave up their pages to others.", lambda stats: stats.preemptions),
    ("engine_steps", "Steps of the engine.", lambda stats: stats.steps),
)


class EngineCollector(Collector):
    """Reads every engine's latest snapshot when scraped."""

    def __init__(self, snapshots: Mapping[str, Callable[[], EngineStats]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters, labelled with the model's name."""
        stats = {name: snapshot() for name, snapshot in self._snapshots.items()}
        for name, documentation, read in GAUGES:
            gauge = GaugeMetricFamily(f"penjing:{name}", documentation, labels=LABELS)
            for model, values in stats.items():
                gauge.add_metric([model], read(values))
            yield gauge
        for name, documentation, read in COUNTERS:
            counter = CounterMetricFamily(f"penjing:{name}", documentation, labels=LABELS)
            for model, values in stats.items():
                counter.add_metric([model], read(values))
            yield counter


class Metrics:
    """All metrics of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._first_token = self._histogram(
            "time_to_first_token_seconds",
            "From arrival of a request to its first token.",
            FIRST_TOKEN_BUCKETS,
        )
        self._between_tokens = self._histogram(
            "inter_token_latency_seconds", "Between successive tokens of an answer.", BETWEEN_TOKENS_BUCKETS
        )
        self._request = self._histogram(
            "e2e_request_latency_seconds",
            "From arrival of a request to the end of its last answer.",
            REQUEST_BUCKETS,
        )
        self._finished = Counter(
            "penjing:answers_finished",
            "Answers that ended, by reason: stop, length, cancelled, error.",
            (*LABELS, "finish_reason"),
            registry=self.registry,
        )

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"penjing:{name}", documentation, LABELS, buckets=buckets, registry=self.registry)

    def watch(self, snapshots: Mapping[str, Callable[[], EngineStats]]) -> None:
        """Report these engines' counters too."""
        self.registry.register(EngineCollector(snapshots))

    def for_model(self, model: str) -> ModelMetrics:
        """The latency observers of one model."""
        return ModelMetrics(
            self._first_token.labels(model),
            self._between_tokens.labels(model),
            self._request.labels(model),
            {reason: self._finished.labels(model, reason) for reason in get_args(FinishReason)},
        )

    def text(self) -> bytes:
        """The exposition format, as scraped."""
        return generate_latest(self.registry)


class ModelMetrics:
    """What a worker observes while it delivers events. Times in seconds."""

    def __init__(
        self,
        first_token: Histogram,
        between_tokens: Histogram,
        request: Histogram,
        finished: Mapping[FinishReason, Counter],
    ) -> None:
        self.first_token_seconds = first_token.observe
        self.between_tokens_seconds = between_tokens.observe
        self.request_seconds = request.observe
        self._finished = finished

    def answer_finished(self, reason: FinishReason) -> None:
        """One answer ended."""
        self._finished[reason].inc()
