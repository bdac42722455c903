"""The numbers at /metrics add up with what clients were told."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families
from serve_fakes import FakeRunner
from serve_running import RunningServer, wait_until

from penjing.engine import Engine

MakeEngine = Callable[..., tuple[Engine, FakeRunner]]


def scrape(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Values by name, model and finish reason."""
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items(), reverse=True))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_metrics_add_up(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    with RunningServer({"m": engine}) as server, server.client() as client, server.http() as http:
        before = scrape(http)
        assert before["penjing:num_requests_running", "m"] == 0
        assert before["penjing:e2e_request_latency_seconds_count", "m"] == 0
        usages = [
            client.completions.create(model="m", prompt="the moss " * 20, max_tokens=length, n=answers).usage
            for length, answers in ((5, 1), (7, 1), (4, 3))
        ]
        after = scrape(http)
    generated = sum(usage.completion_tokens for usage in usages if usage)
    assert generated == 5 + 7 + 12
    assert after["penjing:generation_tokens_total", "m"] == generated
    prompt_tokens = [usage.prompt_tokens for usage in usages if usage]
    assert after["penjing:prompt_tokens_total", "m"] == sum(prompt_tokens) + 2 * prompt_tokens[2]
    assert after["penjing:prefix_hit_tokens_total", "m"] == engine.stats().prefix_hit_tokens > 0
    assert after["penjing:num_preemptions_total", "m"] == 0
    assert after["penjing:answers_finished_total", "m", "length"] == 5
    assert after["penjing:answers_finished_total", "m", "cancelled"] == 0
    assert after["penjing:time_to_first_token_seconds_count", "m"] == 3
    assert after["penjing:e2e_request_latency_seconds_count", "m"] == 3
    assert after["penjing:inter_token_latency_seconds_count", "m"] == generated - 5
    first = after["penjing:time_to_first_token_seconds_sum", "m"]
    assert 0 < first < after["penjing:e2e_request_latency_seconds_sum", "m"]
    assert after["penjing:num_requests_running", "m"] == after["penjing:num_requests_waiting", "m"] == 0
    assert after["penjing:kv_cache_usage_ratio", "m"] == 0


def test_gauges_show_what_runs_and_waits(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(step_seconds=0.02, max_sequences=2, num_pages=64)
    with RunningServer({"m": engine}) as server, server.client() as client, server.http() as http:
        streams = [
            client.completions.create(model="m", prompt=[index + 5], max_tokens=400, stream=True)
            for index in range(5)
        ]
        wait_until(lambda: scrape(http)["penjing:num_requests_running", "m"] == 2)
        now = scrape(http)
        assert now["penjing:num_requests_waiting", "m"] == 3
        assert 0 < now["penjing:kv_cache_usage_ratio", "m"] < 1
        for stream in streams:
            stream.close()
        wait_until(lambda: scrape(http)["penjing:answers_finished_total", "m", "cancelled"] == 5)
        assert scrape(http)["penjing:kv_cache_usage_ratio", "m"] == 0


def test_two_applications_in_one_process(make_engine: MakeEngine) -> None:
    servers = [RunningServer({"m": make_engine()[0]}) for _ in range(2)]
    with servers[0] as one, servers[1] as two, one.client() as client, one.http() as http:
        client.completions.create(model="m", prompt="x", max_tokens=3)
        assert scrape(http)["penjing:generation_tokens_total", "m"] == 3
        with two.http() as other:
            assert scrape(other)["penjing:generation_tokens_total", "m"] == 0
