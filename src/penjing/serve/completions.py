"""POST /v1/completions: text or tokens in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from penjing.engine.outputs import Event, FinishReason
from penjing.serve.answering import Reply, begin, collect, reply_id
from penjing.serve.logprobs import CompletionLogprobs
from penjing.serve.prompts import encode_prompts
from penjing.serve.protocol import CompletionRequest
from penjing.serve.service import Service
from penjing.serve.sse import EventStream

DEFAULT_MAX_TOKENS = 16  # OpenAI's

router = APIRouter()


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Answer every prompt `n` times; choices are numbered prompt by prompt."""
    service: Service = request.app.state.service
    model = service.find(body.model)
    prompts = await run_in_threadpool(encode_prompts, model, body.prompt)
    generation = await begin(
        service,
        model,
        body,
        prompts,
        max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        logprobs=body.logprobs,
        prompt_param="prompt",
    )
    reply = Reply(reply_id("cmpl"), "text_completion", model, generation)
    num_answers = len(prompts) * body.n
    reporters = None
    if body.logprobs is not None:
        reporters = [CompletionLogprobs(model.token_text) for _ in range(num_answers)]
    if body.stream:
        return EventStream(
            reply,
            lambda index, event: choice(index, [event], event.finish_reason, reporters),
            include_usage=body.include_usage,
            every_event=reporters is not None,
        )
    async with generation.watch(request.receive):
        answers = await collect(generation, num_answers)
    choices = [
        choice(index, events, events[-1].finish_reason, reporters) for index, events in enumerate(answers)
    ]
    return JSONResponse(reply.body(choices, usage=generation.usage))


def choice(
    index: int,
    events: Sequence[Event],
    finish_reason: FinishReason | None,
    reporters: Sequence[CompletionLogprobs] | None,
) -> dict[str, Any]:
    """One choice, or a chunk of one."""
    return {
        "index": index,
        "text": "".join(event.text for event in events),
        "logprobs": reporters[index].report(events) if reporters else None,
        "finish_reason": finish_reason,
    }
