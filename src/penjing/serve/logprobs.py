"""Log-probabilities in OpenAI's two shapes. Every generated token is reported, the end token too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penjing.engine.outputs import Event
from penjing.serve.token_text import TokenText


class CompletionLogprobs:
    """Parallel lists, as /v1/completions reports them. One for each answer, as offsets accumulate."""

    def __init__(self, token_text: TokenText) -> None:
        self._token_text = token_text
        self._offset = 0

    def report(self, events: Iterable[Event]) -> dict[str, Any]:
        """The next tokens. `text_offset` counts the characters that began before each of them."""
        tokens, logprobs, offsets, alternatives = [], [], [], []
        for event in events:
            if event.token is not None and event.logprob is not None:
                tokens.append(self._token_text.label(event.token))
                logprobs.append(event.logprob)
                offsets.append(self._offset)
                alternatives.append(self._alternatives(event))
                self._offset += self._token_text.num_characters(event.token)
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": alternatives if all(alternatives) else None,
            "text_offset": offsets,
        }

    def _alternatives(self, event: Event) -> dict[str, float]:
        """The likeliest tokens, and the chosen one if it is not among them; of equal texts the likelier."""
        assert event.token is not None
        assert event.logprob is not None
        chosen = [(event.token, event.logprob)] if event.top_logprobs else []
        alternatives: dict[str, float] = {}
        for token, logprob in (*event.top_logprobs, *chosen):
            alternatives.setdefault(self._token_text.label(token), logprob)
        return alternatives


def chat_logprobs(token_text: TokenText, events: Iterable[Event]) -> dict[str, Any]:
    """A list of tokens, as /v1/chat/completions reports them."""
    content = []
    for event in events:
        if event.token is not None and event.logprob is not None:
            alternatives = [token_entry(token_text, *item) for item in event.top_logprobs]
            entry = token_entry(token_text, event.token, event.logprob)
            content.append(entry | {"top_logprobs": alternatives})
    return {"content": content, "refusal": None}


def token_entry(token_text: TokenText, token: int, logprob: float) -> dict[str, Any]:
    """One token with its exact bytes, from which characters over several tokens can be put together."""
    text = token_text.text(token)
    return {"token": text, "logprob": logprob, "bytes": list(token_text.bytes(token))}
