"""/v1/chat/completions and /v1/tokenize through the official client."""

from __future__ import annotations

import math

import openai
import pytest
from openai import OpenAI
from serve_running import RunningServer

ASK = [{"role": "user", "content": "a small landscape"}]


def test_an_answer_is_a_message(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="bonsai", messages=ASK, max_tokens=9, temperature=0)  # type: ignore[call-overload]
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 9


def test_the_template_makes_the_prompt(client: OpenAI, server: RunningServer) -> None:
    rendered = "<s><|user|>a small landscape\n<|assistant|>"
    by_hand = {"model": "bonsai", "prompt": rendered, "add_special_tokens": False}
    with server.http() as http:
        tokens = http.post("/v1/tokenize", json={"model": "bonsai", "messages": ASK}).json()
        assert tokens == http.post("/v1/tokenize", json=by_hand).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["tokens"].count(0) == 1, "one <s>, the template's"
    chat = client.chat.completions.create(model="bonsai", messages=ASK, max_tokens=9, temperature=0)  # type: ignore[call-overload]
    text = client.completions.create(model="bonsai", prompt=tokens["tokens"], max_tokens=9, temperature=0)
    assert chat.choices[0].message.content == text.choices[0].text
    assert chat.usage.prompt_tokens == tokens["count"]


def test_without_a_limit_an_answer_fills_the_context(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="bonsai", messages=ASK, temperature=0)  # type: ignore[call-overload]
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_begins_with_the_role(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model="bonsai", messages=ASK, max_completion_tokens=20, temperature=0, n=2
    )  # type: ignore[call-overload]
    chunks = list(
        client.chat.completions.create(
            model="bonsai",
            messages=ASK,
            max_completion_tokens=20,
            temperature=0,
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )  # type: ignore[call-overload]
    )
    assert chunks[-1].usage.completion_tokens == 40
    for index in (0, 1):
        deltas = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert deltas[0].delta.role == "assistant"
        text = "".join(choice.delta.content or "" for choice in deltas)
        assert text == whole.choices[index].message.content
        assert [choice.finish_reason for choice in deltas if choice.finish_reason] == ["length"]


def test_logprobs_carry_exact_bytes(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="bonsai", messages=ASK, max_tokens=25, temperature=0, logprobs=True, top_logprobs=4
    )  # type: ignore[call-overload]
    content = answer.choices[0].logprobs.content
    assert len(content) == 25
    assert all(len(entry.top_logprobs) == 4 for entry in content)
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in content), "greedy"
    assert all(sum(math.exp(item.logprob) for item in entry.top_logprobs) <= 1 for entry in content)
    joined = b"".join(bytes(entry.bytes) for entry in content)
    assert joined.decode("utf-8", errors="replace") == answer.choices[0].message.content
    bare = client.chat.completions.create(
        model="bonsai", messages=ASK, max_tokens=25, temperature=0, logprobs=True, stream=True
    )  # type: ignore[call-overload]
    entries = [e for chunk in bare for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    assert [entry.token for entry in entries] == [entry.token for entry in content]
    assert all(entry.top_logprobs == [] for entry in entries)


def test_messages_may_come_in_parts_and_from_developers(client: OpenAI) -> None:
    plain = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "water and light"}]
    parts = [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "water "}, {"type": "text", "text": "and light"}],
        },
    ]
    answers = [
        client.chat.completions.create(model="bonsai", messages=messages, max_tokens=8, temperature=0)  # type: ignore[call-overload]
        for messages in (plain, parts)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_an_answer_can_be_sent_back(client: OpenAI) -> None:
    first = client.chat.completions.create(model="bonsai", messages=ASK, max_tokens=4, temperature=0)  # type: ignore[call-overload]
    conversation = [*ASK, first.choices[0].message.model_dump(), {"role": "user", "content": "and then?"}]
    second = client.chat.completions.create(model="bonsai", messages=conversation, max_tokens=4)  # type: ignore[call-overload]
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_a_template_that_refuses_says_why(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="speak first") as refused:
        client.chat.completions.create(model="bonsai", messages=[{"role": "assistant", "content": "hello"}])
    assert refused.value.param == "messages"
    assert "/" not in refused.value.body["message"], "no path of the server"  # type: ignore[index]
