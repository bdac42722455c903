"""Timings over HTTP: of our own server, and of servers that take less, count less, or fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.errors import EndpointError, SpecError
from penjing.optimize.bench import Rounds, Workload, measure_endpoint
from penjing.serve import create_app
from penjing.serve.run import DrainingServer, listen

QUICK = Rounds(counted=1, warmup=0)
LOAD = Workload(prompt_tokens=20, output_tokens=6)


class Handler(BaseHTTPRequestHandler):
    """A server of settings: what it refuses, how it counts, how it sends."""

    protocol_version = "HTTP/1.1"
    models = ("parrot",)
    refused: tuple[str, ...] = ()
    tokens_per_word = 2
    usage = True
    status = 200
    token_seconds = 0.001
    seen: list[dict[str, Any]]

    def do_GET(self) -> None:
        self.answer(200, json.dumps({"data": [{"id": name} for name in self.models]}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(asked | {"key": self.headers.get("Authorization")})
        wrong = [field for field in self.refused if field in asked]
        if isinstance(asked["prompt"], list) and "token ids" in self.refused:
            wrong.append("prompt")
        if wrong or self.status != 200:
            code = self.status if self.status != 200 else 422
            self.answer(code, json.dumps({"error": {"message": f"no {wrong}"}}).encode())
            return
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.send_events(asked)

    def send_events(self, asked: dict[str, Any]) -> None:
        for index in range(asked["max_tokens"]):
            time.sleep(self.token_seconds)
            self.event({"choices": [{"index": 0, "text": f"{index} "}]})
        self.event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
        if self.usage:
            prompt = asked["prompt"]
            count = (
                len(prompt) if isinstance(prompt, list) else 1 + self.tokens_per_word * len(prompt.split())
            )
            self.event(
                {
                    "choices": [],
                    "usage": {"prompt_tokens": count, "completion_tokens": 2 * asked["max_tokens"]},
                }
            )
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, value: object) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def handler(**settings: Any) -> type[Handler]:
    return type("Set", (Handler,), settings | {"seen": []})


@contextmanager
def serving(artifact: Artifact) -> Iterator[str]:
    """Our own server."""
    listener = listen("127.0.0.1", 0)
    server = DrainingServer(create_app({"tray": Engine(artifact, threads=1)}), listener, grace_seconds=5)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"{server.url}/v1/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_our_own_server(int8: Artifact) -> None:
    """Its small vocabulary does not hold the random token ids, so that it gets text."""
    with serving(int8) as url:
        result = measure_endpoint(url, (LOAD,), rounds=QUICK)
    (row,) = result.rows
    assert result.model.startswith("tray at http://127.0.0.1:")
    assert result.sent == "prompts as text, answers of full length; tokens counted by usage"
    assert row.output_tokens == 6
    assert 5 < row.prompt_tokens < 50  # words are drawn anew in every run
    assert row.decode_tokens_per_second > 0
    assert (row.limit, result.machine, result.tier) == (None, None, None)


def test_tokens_are_counted_by_usage_not_by_pieces() -> None:
    parrot = handler()
    with running(parrot) as url:
        result = measure_endpoint(url, (LOAD,), api_key="secret", rounds=QUICK)
    (row,) = result.rows
    assert result.sent == "prompts as token ids, answers of full length; tokens counted by usage"
    assert (row.prompt_tokens, row.output_tokens, row.tokens_per_arrival) == (20, 12, 2)
    assert {request["key"] for request in parrot.seen} == {"Bearer secret"}
    prompts = [tuple(request["prompt"]) for request in parrot.seen]
    assert len(set(prompts)) == len(prompts) == 2, "no prompt comes twice"


def test_text_is_calibrated_by_the_server_s_count() -> None:
    with running(handler(refused=("token ids", "ignore_eos"))) as url:
        result = measure_endpoint(url, (LOAD,), rounds=QUICK)
    assert result.sent == "prompts as text, answers that may end early; tokens counted by usage"
    assert result.rows[0].prompt_tokens == pytest.approx(20, abs=1)  # one and two a word


def test_without_usage_pieces_are_counted_and_that_is_said() -> None:
    with running(handler(usage=False)) as url:
        result = measure_endpoint(url, (LOAD,), rounds=QUICK)
    assert (result.rows[0].prompt_tokens, result.rows[0].output_tokens) == (20, 6)
    assert str(result.sent).endswith("tokens counted by pieces of text")


def test_prompts_arrive_while_streams_decode() -> None:
    load = LOAD.model_copy(update={"output_tokens": 30, "streams": 2, "arriving_tokens": 50})
    parrot = handler(token_seconds=0.02)
    with running(parrot) as url:
        (row,) = measure_endpoint(url, (load,), rounds=QUICK).rows
    assert row.arriving_ttft_seconds is not None
    assert sum(request["max_tokens"] == 1 and len(request["prompt"]) == 50 for request in parrot.seen) > 1


def test_failures_are_one_clear_line() -> None:
    with running(handler(status=401)) as url, pytest.raises(EndpointError, match=r"answers 401 \(no \[\]\)"):
        measure_endpoint(url, (LOAD,), rounds=QUICK)
    with (
        running(handler(refused=("stream",))) as url,
        pytest.raises(EndpointError, match=r"422 \(no \['stream'\]\)"),
    ):
        measure_endpoint(url, (LOAD,), rounds=QUICK)
    with running(handler(models=("a", "b"))) as url, pytest.raises(EndpointError, match="a, b; say which"):
        measure_endpoint(url, (LOAD,), rounds=QUICK)
    with pytest.raises(EndpointError, match="cannot be reached, or broke off"):
        measure_endpoint(url, (LOAD,), model="parrot", rounds=QUICK)
    for wrong in ("ftp://host/v1", "8000", "http://"):
        with pytest.raises(SpecError, match="no address"):
            measure_endpoint(wrong, (LOAD,))


def test_an_answer_that_breaks_off_or_says_nothing_is_an_error() -> None:
    def failing(self: Handler, asked: dict[str, Any]) -> None:
        if asked["max_tokens"] > 2:
            self.event({"error": {"message": "out of pages"}})
        self.close_connection = True

    with running(handler(send_events=failing)) as url, pytest.raises(EndpointError, match="out of pages"):
        measure_endpoint(url, (LOAD,), rounds=QUICK)

    def silent(self: Handler, _: dict[str, Any]) -> None:
        self.close_connection = True

    with running(handler(send_events=silent)) as url, pytest.raises(EndpointError, match="0 pieces of text"):
        measure_endpoint(url, (LOAD,), rounds=QUICK)
