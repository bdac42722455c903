"""Every refusal has OpenAI's shape and says what to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from serve_fakes import FakeRunner
from serve_running import RunningServer, wait_until

from penjing.engine import Engine

MakeEngine = Callable[..., tuple[Engine, FakeRunner]]

JSON = {"Content-Type": "application/json"}
TEXT: dict[str, Any] = {"model": "bonsai", "prompt": "the tree", "max_tokens": 2}
CHAT: dict[str, Any] = {"model": "bonsai", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    assert answer.headers["x-request-id"]
    return dict(body["error"])


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"flavour": "sweet"}, "flavour", "unknown_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 1.5}, "min_p", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": [""]}, "stop.0", "invalid_value"),
        ({"stop": 3}, "stop", "invalid_value"),
        ({"logit_bias": {"tree": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {"99999": 1}}, None, None),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_value"),
        ({"prompt": [99999]}, None, None),
        ({"prompt": [-1]}, None, None),
        ({"prompt": ["x"] * 513, "n": 2}, "prompt", "request_too_large"),
        ({"prompt": [10**30]}, None, None),
        ({"prompt": [1.5]}, "prompt", "invalid_value"),
        ({"prompt": "\ud800"}, "prompt", "tokenizer_error"),
        ({"\ud800": 1}, None, "invalid_value"),
        ({"max_tokens": 10**30}, "prompt", "context_length_exceeded"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": {"size": 1}}, "stream_options.size", "unknown_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"frequency_penalty": -1}, "frequency_penalty", "unsupported_parameter"),
    ],
)
def test_completion_fields(
    server: RunningServer, change: dict[str, Any], param: str | None, code: str | None
) -> None:
    with server.http() as http:
        content = json.dumps(TEXT | change).encode()
        error = error_of(http.post("/v1/completions", content=content, headers=JSON), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    if param and code != "tokenizer_error":
        assert param.split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ({"messages": [{"role": "tree", "content": ""}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages.0.mood", "unknown_parameter"),
        ({"prompt": "x"}, "prompt", "unknown_parameter"),
        ({"logprobs": 2}, "logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"max_completion_tokens": 3}, "max_tokens", None),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "unsupported_parameter"),
        ({"presence_penalty": 1}, "presence_penalty", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
    ],
)
def test_chat_fields(server: RunningServer, change: dict[str, Any], param: str, code: str | None) -> None:
    with server.http() as http:
        error = error_of(http.post("/v1/chat/completions", json=CHAT | change), 400)
    assert (error["param"], error["code"]) == (param, code)


def test_images_are_refused(server: RunningServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with server.http() as http:
        body = CHAT | {"messages": [{"role": "user", "content": [image]}]}
        error = error_of(http.post("/v1/chat/completions", json=body), 400)
    assert error["param"].startswith("messages.0.content")


def test_neutral_values_pass(server: RunningServer) -> None:
    neutral: dict[str, Any] = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "stop": None,
        "seed": None,
        "logit_bias": None,
        "user": "somebody",
        "service_tier": "auto",
        "stream": False,
        "reasoning_effort": None,
    }
    with server.http() as http:
        assert http.post("/v1/chat/completions", json=CHAT | neutral).status_code == 200
        text = {"echo": False, "best_of": 1, "suffix": None, "user": "somebody"}
        assert http.post("/v1/completions", json=TEXT | text).status_code == 200


def test_bodies_that_are_not_json_objects(server: RunningServer) -> None:
    with server.http() as http:
        for content in (b"{", b"[]", b"3", b"", b"\xff", b'{"model": NaN', b'{"seed": ' + b"9" * 5000 + b"}"):
            error = error_of(http.post("/v1/completions", content=content, headers=JSON), 400)
            assert error["type"] == "invalid_request_error"
        deep = b"[" * 100_000
        error_of(http.post("/v1/completions", content=deep, headers=JSON), 400)
        error_of(http.post("/v1/completions", content=b'{"model": "bonsai"}'), 400)


def test_unknown_urls_and_methods(server: RunningServer) -> None:
    with server.http() as http:
        assert error_of(http.get("/v1/embeddings"), 404)["code"] == "unknown_url"
        assert error_of(http.get("/docs"), 404)["code"] == "unknown_url"
        assert error_of(http.get("/v1/completions"), 405)["code"] == "method_not_allowed"
        assert error_of(http.delete("/health"), 405)["code"] == "method_not_allowed"


def test_the_client_raises_its_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="oak", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("oak")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="bonsai", prompt="x", temperature=9)
    assert wrong.value.param == "temperature"


@pytest.mark.parametrize(("num_prompt_tokens", "max_tokens"), [(512, 1), (600, 1), (500, 13)])
def test_context_length(client: OpenAI, num_prompt_tokens: int, max_tokens: int) -> None:
    with pytest.raises(openai.BadRequestError, match="512") as too_long:
        client.completions.create(model="bonsai", prompt=[7] * num_prompt_tokens, max_tokens=max_tokens)
    assert too_long.value.code == "context_length_exceeded"
    assert too_long.value.param == "prompt"
    fits = client.completions.create(model="bonsai", prompt=[7] * 500, max_tokens=12)
    assert fits.choices[0].finish_reason == "length"


def test_long_conversations_name_the_messages(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(
            model="bonsai", messages=[{"role": "user", "content": "tree, moss; " * 400}]
        )
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")


def test_pages_may_hold_less_than_the_context(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(num_pages=3)
    with RunningServer({"small": engine}) as server, server.client() as client:
        assert client.models.retrieve("small").max_model_len == 96  # type: ignore[attr-defined]
        with pytest.raises(openai.BadRequestError, match="96") as too_long:
            client.completions.create(model="small", prompt=[7] * 90, max_tokens=7)
        assert too_long.value.code == "context_length_exceeded"
        assert client.completions.create(model="small", prompt=[7] * 90, max_tokens=6).choices


def test_a_full_queue_is_429_and_what_never_fits_400(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(step_seconds=0.02, max_sequences=2, max_queue=2)
    with RunningServer({"slow": engine}) as server, server.client() as client:
        with pytest.raises(openai.BadRequestError, match="2 sequences") as never:
            client.completions.create(model="slow", prompt="x", n=3)
        assert never.value.code == "request_too_large"
        running = [
            client.completions.create(model="slow", prompt=[index + 5], max_tokens=400, stream=True)
            for index in range(2)
        ]
        wait_until(lambda: engine.stats().running == 2)
        waiting = [
            client.completions.create(model="slow", prompt=[index + 5], max_tokens=400, stream=True)
            for index in range(2)
        ]
        with pytest.raises(openai.RateLimitError, match="queue") as full:
            client.completions.create(model="slow", prompt="x")
        assert full.value.code == "queue_full"
        assert full.value.response.headers["retry-after"] == "1"
        for stream in (*running, *waiting):
            stream.close()
        wait_until(lambda: engine.free_pages == engine.stats().pages_total)
        assert client.completions.create(model="slow", prompt="x", max_tokens=1).choices


def test_bodies_have_a_limit(make_engine: MakeEngine) -> None:
    with RunningServer({"m": make_engine()[0]}, max_body_bytes=1000) as server, server.http() as http:
        body = {"model": "m", "prompt": "x" * 1000}
        assert error_of(http.post("/v1/completions", json=body), 413)["code"] == "body_too_large"
        pieces = (b"x" * 100 for _ in range(20))
        error_of(http.post("/v1/completions", content=pieces, headers=JSON), 413)


def test_a_model_without_tokenizer_serves_tokens(make_engine: MakeEngine, tmp_path: Any) -> None:
    engine, _ = make_engine()
    engine.artifact.path = tmp_path / "secret" / "bare"
    with RunningServer({"bare": engine}) as server, server.client() as client:
        with pytest.raises(openai.BadRequestError, match="tokenizer") as no_text:
            client.completions.create(model="bare", prompt="x")
        assert "secret" not in str(no_text.value)
        answer = client.completions.create(model="bare", prompt=[5, 6], max_tokens=3)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
