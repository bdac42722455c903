"""POST /v1/chat/completions: a conversation in, the assistant's next message out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from penjing.engine.outputs import Event
from penjing.serve.answering import Reply, begin, collect, reply_id, stream
from penjing.serve.generation import Generation
from penjing.serve.logprobs import chat_logprobs
from penjing.serve.prompts import encode_chat
from penjing.serve.protocol import ChatRequest
from penjing.serve.service import Service
from penjing.serve.sse import EventStream
from penjing.serve.token_text import TokenText

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation `n` times. Without a limit an answer may fill the context."""
    service: Service = request.app.state.service
    model = service.find(body.model)
    tokens = await run_in_threadpool(encode_chat, model, body.messages)
    generation = await begin(
        service,
        model,
        body,
        [tokens],
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_param="messages",
    )
    token_text = model.token_text if body.logprobs else None
    if body.stream:
        reply = Reply(reply_id("chatcmpl"), "chat.completion.chunk", model, generation)
        choices = stream_choices(generation, body.n, token_text)
        return EventStream(generation, stream(reply, choices, body.include_usage))
    reply = Reply(reply_id("chatcmpl"), "chat.completion", model, generation)
    async with generation.watch(request.receive):
        answers = await collect(generation, body.n)
    whole = [whole_choice(index, events, token_text) for index, events in enumerate(answers)]
    return JSONResponse(reply.body(whole, usage=generation.usage))


async def stream_choices(
    generation: Generation, num_answers: int, token_text: TokenText | None
) -> AsyncIterator[list[dict[str, Any]]]:
    """The role of each answer at once, then a chunk for every event that has something to say."""
    for index in range(num_answers):
        yield [chunk_choice(index, {"role": "assistant", "content": ""})]
    async for index, event in generation:
        if event.text or event.finish_reason or token_text:
            delta = {"content": event.text} if event.text else {}
            logprobs = chat_logprobs(token_text, [event]) if token_text else None
            yield [chunk_choice(index, delta, logprobs, event.finish_reason)]


def chunk_choice(
    index: int,
    delta: dict[str, str],
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    """A piece of one answer."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def whole_choice(index: int, events: Sequence[Event], token_text: TokenText | None) -> dict[str, Any]:
    """One answer."""
    text = "".join(event.text for event in events)
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": chat_logprobs(token_text, events) if token_text else None,
        "finish_reason": events[-1].finish_reason,
    }
