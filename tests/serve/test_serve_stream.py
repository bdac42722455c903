"""What a stream writes, and in how many pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from serve_fakes import FakeRunner

from penjing.engine import Engine, Sampling
from penjing.engine.outputs import Event
from penjing.serve.answering import Reply
from penjing.serve.generation import Generation
from penjing.serve.service import Model, Service
from penjing.serve.sse import EventStream
from penjing.serve.worker import Admitted, Answered, Failed, Job, Prompt

MakeEngine = Callable[..., tuple[Engine, FakeRunner]]
HELLO = [Answered(0, Event(1, 5, text)) for text in ("He", "l", "", "lo \N{EVERGREEN TREE}\n")]
END = Answered(0, Event(1, 6, "!", finish_reason="length"))


class FakeWorker:
    """Holds the job that it is given, so that a test can answer it."""

    def __init__(self) -> None:
        self.cancelled = False

    def submit(self, job: Job) -> None:
        self.job = job
        job.deliver([Admitted()])

    def cancel(self, job: Job) -> None:
        self.cancelled = True


@pytest.fixture
def model(make_engine: MakeEngine) -> Model:
    return Service({"[]": make_engine()[0]}).models["[]"]


async def stream(model: Model, deliveries: list[list[Any]], **options: bool) -> tuple[FakeWorker, list[str]]:
    """The bodies that are written when the client reads one only after the next delivery."""
    worker, bodies = FakeWorker(), []
    generation = Generation(worker, [Prompt([1], [Sampling()])], None, "prompt")  # type: ignore[arg-type]
    await generation.admit()

    def choice(index: int, event: Event) -> dict[str, Any]:
        return {"index": index, "text": event.text}

    async def receive() -> dict[str, str]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message["body"].decode())
        if deliveries:
            worker.job.deliver(deliveries.pop(0))
        await asyncio.sleep(0)

    await EventStream(Reply("id", "chunk", model, generation), choice, **options)({}, receive, send)  # type: ignore[arg-type]
    return worker, bodies


def test_tokens_that_waited_leave_together(model: Model) -> None:
    worker, bodies = asyncio.run(stream(model, [HELLO[:1], HELLO[1:], [END]]))
    assert [body.count("data: ") for body in bodies] == [1, 2, 1, 1, 0], "one token has no text"
    *chunks, done, empty = "".join(bodies).split("\n\n")
    assert (done, empty) == ("data: [DONE]", "")
    parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert "".join(chunk["choices"][0]["text"] for chunk in parsed) == "Hello \N{EVERGREEN TREE}\n!"
    assert {chunk["model"] for chunk in parsed} == {"[]"}
    assert not worker.cancelled


def test_a_chunk_is_what_the_whole_body_would_be(model: Model) -> None:
    _, bodies = asyncio.run(stream(model, [HELLO[:1], [END]], include_usage=True, every_event=True))
    first, second, usage, _, _ = bodies
    reply = json.loads(first.removeprefix("data: "))
    assert list(reply) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert reply["choices"] == [{"index": 0, "text": "He"}]
    assert reply["usage"] is None
    assert " " not in first.removeprefix("data: ").strip()
    assert json.loads(second.removeprefix("data: "))["choices"] == [{"index": 0, "text": "!"}]
    last = json.loads(usage.removeprefix("data: "))
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


def test_what_came_before_a_failure_is_sent_and_nothing_after_it(model: Model) -> None:
    failure = Failed(RuntimeError("inner detail"))
    worker, bodies = asyncio.run(stream(model, [[*HELLO[:2], failure, *HELLO[2:]]]))
    text = "".join(bodies)
    assert text.count('"text"') == 2
    assert text.index('"text":"l"') < text.index('"internal_error"') < text.index("[DONE]")
    assert "inner" not in text
    assert worker.cancelled
