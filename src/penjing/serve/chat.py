"""POST /v1/chat/completions: a conversation in, the assistant's next message out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from penjing.engine.outputs import Event
from penjing.serve.answering import Reply, begin, collect, reply_id
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
        return EventStream(
            reply,
            lambda index, event: chunk_choice(index, event, token_text),
            opening=[first_choice(index) for index in range(body.n)],
            include_usage=body.include_usage,
            every_event=token_text is not None,
        )
    reply = Reply(reply_id("chatcmpl"), "chat.completion", model, generation)
    async with generation.watch(request.receive):
        answers = await collect(generation, body.n)
    whole = [whole_choice(index, events, token_text) for index, events in enumerate(answers)]
    return JSONResponse(reply.body(whole, usage=generation.usage))


def first_choice(index: int) -> dict[str, Any]:
    """What an answer begins with: who speaks."""
    delta = {"role": "assistant", "content": ""}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def chunk_choice(index: int, event: Event, token_text: TokenText | None) -> dict[str, Any]:
    """A piece of one answer."""
    return {
        "index": index,
        "delta": {"content": event.text} if event.text else {},
        "logprobs": chat_logprobs(token_text, [event]) if token_text else None,
        "finish_reason": event.finish_reason,
    }


def whole_choice(index: int, events: Sequence[Event], token_text: TokenText | None) -> dict[str, Any]:
    """One answer."""
    text = "".join(event.text for event in events)
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": chat_logprobs(token_text, events) if token_text else None,
        "finish_reason": events[-1].finish_reason,
    }
