"""/v1/completions through the official client."""

from __future__ import annotations

import math
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from serve_running import RunningServer

PROMPT = "the little tree"


def joined(stream: Iterator[openai.types.Completion], index: int = 0) -> str:
    return "".join(choice.text for chunk in stream for choice in chunk.choices if choice.index == index)


def test_a_completion_has_text_usage_and_a_reason(client: OpenAI) -> None:
    answer = client.completions.create(model="bonsai", prompt=PROMPT, max_tokens=12, temperature=0)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == "bonsai"
    assert answer.system_fingerprint == "penjing-0123456789abcdef"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_sixteen_tokens_unless_said_otherwise(client: OpenAI) -> None:
    usage = client.completions.create(model="bonsai", prompt=PROMPT).usage
    assert usage is not None
    assert usage.completion_tokens == 16


def test_a_stream_joins_to_the_whole(client: OpenAI) -> None:
    whole = client.completions.create(model="bonsai", prompt=PROMPT, max_tokens=40, temperature=0)
    chunks = list(
        client.completions.create(model="bonsai", prompt=PROMPT, max_tokens=40, temperature=0, stream=True)
    )
    assert joined(iter(chunks)) == whole.choices[0].text
    assert len(chunks) > 10, "it did not stream"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_include_usage_adds_a_last_chunk(client: OpenAI) -> None:
    *chunks, last = client.completions.create(
        model="bonsai",
        prompt=PROMPT,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks)


def test_raw_stream_ends_in_done(server: RunningServer) -> None:
    body = {"model": "bonsai", "prompt": PROMPT, "max_tokens": 3, "stream": True}
    with server.http() as http:
        answer = http.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(event.startswith("data: {") for event in events[:-1])


def test_text_and_its_tokens_are_one_prompt(client: OpenAI, server: RunningServer) -> None:
    with server.http() as http:
        tokens = http.post("/v1/tokenize", json={"model": "bonsai", "prompt": PROMPT}).json()["tokens"]
    from_text = client.completions.create(model="bonsai", prompt=PROMPT, temperature=0)
    from_tokens = client.completions.create(model="bonsai", prompt=tokens, temperature=0)
    assert from_text.choices[0].text == from_tokens.choices[0].text
    assert from_tokens.usage is not None
    assert from_tokens.usage.prompt_tokens == len(tokens)


def test_several_prompts_are_numbered_in_order(client: OpenAI) -> None:
    prompts = ["the moss", "a tray", "water"]
    alone = [
        client.completions.create(model="bonsai", prompt=prompt, temperature=0).choices[0].text
        for prompt in prompts
    ]
    together = client.completions.create(model="bonsai", prompt=prompts, temperature=0)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert [choice.text for choice in together.choices] == alone
    lists = client.completions.create(model="bonsai", prompt=[[5, 6, 7], [8, 9]], max_tokens=2)
    assert lists.usage is not None
    assert (lists.usage.prompt_tokens, lists.usage.completion_tokens) == (5, 4)


def test_n_answers_differ_and_the_first_is_the_single_one(client: OpenAI) -> None:
    one = client.completions.create(model="bonsai", prompt=PROMPT, seed=7, temperature=1)
    three = client.completions.create(model="bonsai", prompt=PROMPT, seed=7, temperature=1, n=3)
    texts = [choice.text for choice in three.choices]
    assert texts[0] == one.choices[0].text
    assert len(set(texts)) == 3
    assert three.usage is not None
    assert one.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 48
    chunks = list(
        client.completions.create(model="bonsai", prompt=PROMPT, seed=7, temperature=1, n=3, stream=True)
    )
    assert [joined(iter(chunks), index) for index in range(3)] == texts


def test_a_seed_repeats_and_its_absence_does_not(client: OpenAI) -> None:
    def text(seed: int | None) -> str:
        options = {} if seed is None else {"seed": seed}
        answer = client.completions.create(model="bonsai", prompt=PROMPT, temperature=1, **options)  # type: ignore[call-overload]
        return str(answer.choices[0].text)

    assert text(3) == text(3)
    assert text(3) != text(4)
    assert text(-3) == text(-3)
    assert text(None) != text(None)


@pytest.mark.parametrize("as_list", [False, True])
def test_stop_texts_end_the_answer_and_are_not_in_it(client: OpenAI, as_list: bool) -> None:
    whole = client.completions.create(model="bonsai", prompt=PROMPT, max_tokens=30, temperature=0)
    text = whole.choices[0].text
    stop = text[10:13]
    stopped = client.completions.create(
        model="bonsai",
        prompt=PROMPT,
        max_tokens=30,
        temperature=0,
        stop=["never in it \N{BLACK HEART SUIT}", stop] if as_list else stop,
    )
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    streamed = client.completions.create(
        model="bonsai", prompt=PROMPT, max_tokens=30, temperature=0, stop=stop, stream=True
    )
    assert joined(streamed) == text[: text.index(stop)]


def test_logprobs_are_parallel_lists(client: OpenAI) -> None:
    answer = client.completions.create(model="bonsai", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=3)
    report = answer.choices[0].logprobs
    assert report is not None
    assert report.tokens is not None
    assert report.token_logprobs is not None
    assert report.top_logprobs is not None
    assert len(report.tokens) == len(report.token_logprobs) == len(report.top_logprobs) == 8
    assert report.text_offset is not None
    assert report.text_offset[0] == 0
    assert report.text_offset == sorted(report.text_offset)
    assert report.text_offset[-1] <= len(answer.choices[0].text)
    for token, logprob, alternatives in zip(
        report.tokens, report.token_logprobs, report.top_logprobs, strict=True
    ):
        assert len(alternatives) == 3
        assert max(alternatives.values()) == logprob == alternatives[token], "greedy takes the likeliest"
        assert sum(map(math.exp, alternatives.values())) <= 1
    chunks = client.completions.create(
        model="bonsai", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=3, stream=True
    )
    pieces = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token for piece in pieces for token in piece.tokens or ()] == report.tokens
    assert [offset for piece in pieces for offset in piece.text_offset or ()] == report.text_offset


def test_logit_bias_forbids_and_forces(client: OpenAI) -> None:
    forced = client.completions.create(
        model="bonsai", prompt=PROMPT, max_tokens=4, temperature=0, logit_bias={"68": 100}, logprobs=0
    )
    assert forced.choices[0].logprobs is not None
    assert len(set(forced.choices[0].logprobs.tokens or ())) == 1


def test_other_samplers_are_known(client: OpenAI) -> None:
    greedy = client.completions.create(model="bonsai", prompt=PROMPT, temperature=0).choices[0].text
    for options in ({"top_k": 1}, {"min_p": 1.0}, {"top_k": -1, "min_p": 1.0}):
        answer = client.completions.create(model="bonsai", prompt=PROMPT, temperature=1, extra_body=options)
        assert answer.choices[0].text == greedy
    assert client.completions.create(model="bonsai", prompt=PROMPT, top_p=1e-6).choices[0].text == greedy
    penalized = client.completions.create(
        model="bonsai", prompt=PROMPT, temperature=0, extra_body={"repetition_penalty": 2.0}
    )
    assert penalized.choices[0].finish_reason == "length"


def test_tiers_are_models(client: OpenAI) -> None:
    for name in ("tray", "tray:fast", "tray:best"):
        answer = client.completions.create(model=name, prompt=PROMPT, max_tokens=2)
        assert answer.model == name
    with pytest.raises(openai.NotFoundError, match="bonsai:fast"):
        client.completions.create(model="bonsai:fast", prompt=PROMPT)


def test_usage_tells_what_was_cached(client: OpenAI) -> None:
    def cached(num_answers: int, stream: bool) -> int:
        prompt = [17] * 100
        if stream:
            *_, last = client.completions.create(
                model="tray",
                prompt=prompt,
                n=num_answers,
                stream=True,
                stream_options={"include_usage": True},
            )
        else:
            last = client.completions.create(model="tray", prompt=prompt, n=num_answers)
        assert last.usage is not None
        assert last.usage.prompt_tokens_details is not None
        return last.usage.prompt_tokens_details.cached_tokens or 0

    assert cached(1, stream=False) == 0
    assert cached(1, stream=False) == 96
    assert cached(3, stream=True) == 96
