"""Many clients at once, clients that leave, and engines that fail."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import OpenAI
from serve_fakes import FakeRunner
from serve_running import RunningServer, wait_until

from penjing.engine import Engine, Sampling

MakeEngine = Callable[..., tuple[Engine, FakeRunner]]


def is_idle(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.running == stats.waiting == 0 and engine.free_pages == stats.pages_total


def test_64_streams_with_random_cancels(make_engine: MakeEngine) -> None:
    # Fewer pages than sequences that may run: admission fills them all, so whoever grows evicts somebody.
    engine, runner = make_engine(num_pages=16, max_sequences=24)
    alone, _ = make_engine()
    chooser = random.Random(5)
    prompts = [f"the {'little ' * chooser.randrange(9)}tree {index % 7}" for index in range(64)]
    leaves = [chooser.randrange(1, 20) if index % 3 == 0 else None for index in range(64)]
    expected = {
        prompt: alone.generate(prompt, Sampling(max_tokens=60, temperature=0)).text for prompt in set(prompts)
    }

    with RunningServer({"m": engine}) as server, server.client() as client:

        def ask(index: int) -> str | None:
            stream = client.completions.create(
                model="m", prompt=prompts[index], max_tokens=60, temperature=0, stream=True
            )
            text = ""
            for number, chunk in enumerate(stream):
                text += chunk.choices[0].text
                if number == leaves[index]:
                    stream.close()
                    return None
            return text

        runner.step_seconds = 1.0  # until many are there, however slowly they come, and none has grown
        with ThreadPoolExecutor(64) as pool:
            answers = [pool.submit(ask, index) for index in range(64)]
            wait_until(lambda: engine.stats().running + engine.stats().waiting >= 32)
            runner.step_seconds = 0.0
            texts = [answer.result(60) for answer in answers]
        assert engine.stats().preemptions > 0
        wait_until(lambda: is_idle(engine))
    survivors = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text is not None]
    assert len(survivors) >= 40
    for prompt, text in survivors:
        assert text == expected[prompt]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("num_choices", [1, 3])
def test_leaving_frees_the_pages_promptly(
    make_engine: MakeEngine, stream: bool, num_choices: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = make_engine(step_seconds=0.01)
    body = {"model": "m", "prompt": "x", "max_tokens": 500, "n": num_choices, "stream": stream}
    with RunningServer({"m": engine}) as server:
        content = json.dumps(body).encode()
        with socket.create_connection(server.listener.getsockname()) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: m\r\nContent-Length: {len(content)}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
            wait_until(lambda: engine.stats().generated_tokens > 10)
        left_seconds = time.monotonic()
        wait_until(lambda: is_idle(engine))
        assert time.monotonic() - left_seconds < 1
        assert engine.stats().generated_tokens < 400
        engine.check_invariants()
    assert caplog.text == "", "leaving is no error"


def test_leaving_the_line_too(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(step_seconds=0.01, max_sequences=1)
    with RunningServer({"m": engine}) as server, server.client() as client:
        first = client.completions.create(model="m", prompt="a", max_tokens=400, stream=True)
        second = client.completions.create(model="m", prompt="b", max_tokens=400, stream=True)
        wait_until(lambda: engine.stats().waiting == 1)
        second.close()
        wait_until(lambda: engine.stats().waiting == 0)
        assert engine.stats().running == 1
        first.close()


def test_a_slow_reader_holds_up_nobody(make_engine: MakeEngine) -> None:
    engine, _ = make_engine()
    with RunningServer({"m": engine}) as server, server.client() as client:
        slow = client.completions.create(model="m", prompt="a", max_tokens=500, stream=True)
        next(iter(slow))
        started_seconds = time.monotonic()
        assert client.completions.create(model="m", prompt="b", max_tokens=20).choices
        assert time.monotonic() - started_seconds < 5
        slow.close()


def test_requests_do_not_wait_for_steps_of_other_engines(make_engine: MakeEngine) -> None:
    slow, _ = make_engine(step_seconds=2.0)
    quick, _ = make_engine()
    with RunningServer({"slow": slow, "quick": quick}) as server, server.client() as client:
        thread = threading.Thread(
            target=client.completions.create, kwargs={"model": "slow", "prompt": "x", "max_tokens": 2}
        )
        thread.start()
        wait_until(lambda: slow.stats().running == 1)
        started_seconds = time.monotonic()
        client.completions.create(model="quick", prompt="x", max_tokens=5)
        with server.http() as http:
            assert http.get("/health").status_code == 200
        assert time.monotonic() - started_seconds < 2.0
        thread.join()


def test_a_failing_engine_fails_its_requests_and_says_so(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine, runner = make_engine(step_seconds=0.01)
    healthy, _ = make_engine()
    with (
        RunningServer({"bad": engine, "good": healthy}) as server,
        server.client() as client,
        server.http() as http,
    ):
        stream = client.completions.create(model="bad", prompt="x", max_tokens=400, stream=True)
        next(iter(stream))
        with ThreadPoolExecutor(1) as pool:
            silent = pool.submit(client.completions.create, model="bad", prompt="y", max_tokens=400)
            wait_until(lambda: engine.stats().running == 2)
            runner.failure = RuntimeError("secret detail")
            with pytest.raises(openai.APIError, match="internal error") as broken:
                list(stream)
            with pytest.raises(openai.InternalServerError) as failed:
                silent.result(30)
        for error in (broken.value, failed.value):
            assert "secret" not in str(error)
        assert failed.value.code == "internal_error"
        answer = http.get("/health")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unhealthy", "failures": {"bad": "RuntimeError"}}
        with pytest.raises(openai.InternalServerError):
            client.completions.create(model="bad", prompt="x")
        assert client.completions.create(model="good", prompt="x", max_tokens=1).choices
    assert "secret detail" in caplog.text, "the log has what clients do not see"


def test_nan_fails_one_request_and_not_the_service(make_engine: MakeEngine) -> None:
    engine, runner = make_engine()
    with RunningServer({"m": engine}) as server, server.client() as client:
        runner.poisoned = True
        with pytest.raises(openai.InternalServerError, match="NaN"):
            client.completions.create(model="m", prompt="x")
        with pytest.raises(openai.APIError, match="NaN"):
            list(client.completions.create(model="m", prompt="x", stream=True))
        runner.poisoned = False
        assert client.completions.create(model="m", prompt="another", max_tokens=1).choices
        with server.http() as http:
            assert http.get("/health").status_code == 200


def test_a_bug_is_a_500_without_a_traceback(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, _ = make_engine()

    def fail(_messages: object) -> str:
        raise ZeroDivisionError("inner detail")

    monkeypatch.setattr(engine.tokenizer, "render_chat", fail)
    with RunningServer({"m": engine}) as server, server.client() as client:
        ask(client)
        with server.http() as http:
            assert http.get("/health").status_code == 200
    assert "inner detail" in caplog.text


def ask(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert failed.value.code == "internal_error"
    assert "inner" not in str(failed.value)
    assert failed.value.request_id
