"""What the engine hands back: events while it runs, completions when it is done, counters at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Event:
    """One new token of one sequence, or its end without one.

    token: the token chosen in this step; None if the sequence ended without one (cancelled, error).
    text: what became final with it. Empty while a character is incomplete, or while the text may turn out
        to be the beginning of a stop text; a stop text itself never appears.
    logprob: natural log of the token's probability in the model's raw distribution (before any sampling
        option); None unless `Sampling.logprobs` was set.
    top_logprobs: (token, logprob) of the likeliest alternatives, most likely first.
    prefix_hit_tokens: of the prompt, found in the prefix cache when the sequence was first admitted; counted
        in the event of its first token, by the first of several answers, and 0 in all others.
    finish_reason: None while the sequence goes on; "stop" (end-of-sequence token or stop text), "length"
        (max_tokens, or the end of the context), "cancelled", or "error" (the model produced NaN or Inf for
        this sequence; the others go on). An event with a reason is the sequence's last.
    """

    sequence_id: int
    token: int | None = None
    text: str = ""
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    prefix_hit_tokens: int = 0
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Completion:
    """A finished answer. `tokens` includes the end-of-sequence token, if there was one; `text` does not."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()


def completion_of(num_prompt_tokens: int, events: Sequence[Event]) -> Completion:
    """All events of one sequence, put together."""
    reason = events[-1].finish_reason
    assert reason is not None, "a sequence ended without a reason"
    return Completion(
        prompt_tokens=num_prompt_tokens,
        tokens=tuple(event.token for event in events if event.token is not None),
        text="".join(event.text for event in events),
        finish_reason=reason,
        logprobs=tuple(event.logprob for event in events if event.logprob is not None),
        top_logprobs=tuple(event.top_logprobs for event in events if event.logprob is not None),
    )


@dataclass(frozen=True)
class EngineStats:
    """A snapshot for metrics. The first group counts since the engine was made, the second is now.

    prompt_tokens: tokens of submitted prompts, once each sequence. generated_tokens: tokens emitted.
    prefix_hit_tokens: prompt (or recomputed) tokens whose keys and values were found in the prefix cache.
    preemptions: times a sequence gave up its pages to be recomputed. steps: calls of the runner.
    running, waiting: sequences. pages: free, cached (unreferenced, evictable) and in use add up to the total.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    steps: int = 0

    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_free: int = 0
    pages_cached: int = 0
    pages_used: int = 0
