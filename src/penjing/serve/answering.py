"""What both generating routes do alike: from a request to an admitted generation, and to usage at its end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from penjing.engine.outputs import Event
from penjing.engine.sampling import Sampling
from penjing.serve.generation import Generation
from penjing.serve.http_errors import context_too_long
from penjing.serve.protocol import GenerationRequest
from penjing.serve.service import Model, Service
from penjing.serve.worker import Prompt

SEEDS = 2**64


async def begin(
    service: Service,
    model: Model,
    request: GenerationRequest,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_param: str,
) -> Generation:
    """Admit every prompt, `request.n` answers to each.

    max_tokens: None is all that the context has room for. logprobs: alternatives a token, None for none.
    Raises ApiError: 400 if a prompt and its answer exceed the context, 429 if the queue is full, 503 while
    draining.
    """
    service.require_open()
    jobs = []
    for tokens in prompts:
        limit = answer_limit(len(tokens), max_tokens, model.max_tokens, prompt_param)
        jobs.append(Prompt(tokens, samplings(request, limit, logprobs)))
    generation = Generation(model.worker, jobs, model.tier, prompt_param)
    await generation.admit()
    return generation


def answer_limit(num_prompt_tokens: int, max_tokens: int | None, context: int, prompt_param: str) -> int:
    """Most tokens of one answer. Raises ApiError if there is no room for one, or not for what was asked."""
    wanted = 1 if max_tokens is None else max_tokens
    if num_prompt_tokens + wanted > context:
        message = (
            f"the context holds {context} tokens, and {num_prompt_tokens + wanted} are asked for: "
            f"{num_prompt_tokens} of {prompt_param} and {wanted} to generate"
        )
        raise context_too_long(message, prompt_param)
    return context - num_prompt_tokens if max_tokens is None else max_tokens


def samplings(request: GenerationRequest, max_tokens: int, logprobs: int | None) -> list[Sampling]:
    """One for each of `n` answers; they differ in their seeds, which count up from the one that was given."""
    first_seed = secrets.randbelow(SEEDS) if request.seed is None else request.seed
    return [
        Sampling(
            max_tokens=max_tokens,
            temperature=request.temperature,
            top_k=max(0, request.top_k),
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            seed=(first_seed + index) % SEEDS,
            stop=tuple(request.stop),
            logit_bias=request.logit_bias,
            logprobs=logprobs,
            ignore_eos=request.ignore_eos,
        )
        for index in range(request.n)
    ]


@dataclass(frozen=True)
class Reply:
    """What every object of one response repeats."""

    id: str
    kind: str
    model: Model
    generation: Generation
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, choices: list[dict[str, Any]], **usage: object) -> dict[str, Any]:
        """A response or chunk: `usage` is absent unless it is passed, as None in chunks before the last."""
        head = {"id": self.id, "object": self.kind, "created": self.created, "model": self.model.id}
        return head | {"system_fingerprint": self.model.fingerprint, "choices": choices} | usage


def reply_id(prefix: str) -> str:
    """A new id, such as cmpl-0123..."""
    return f"{prefix}-{uuid4().hex}"


async def collect(generation: Generation, num_answers: int) -> list[list[Event]]:
    """All events of every answer, in order."""
    answers: list[list[Event]] = [[] for _ in range(num_answers)]
    while answered := await generation.receive():
        for index, event in answered:
            answers[index].append(event)
    return answers
