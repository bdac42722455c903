"""Tokens to text as they come, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what decoders put in place of an incomplete character
MAX_HELD = 16  # tokens; no character has more than four bytes, so more of them are not going to become one


class TextStream:
    """Turns tokens into text one at a time; what `push` and `flush` return, joined, is the whole.

    A character whose bytes are spread over several tokens is held back until it is complete. Each step
    decodes only a short window: the tokens of the last emitted text, for context (decoders treat a first
    token differently), and those after it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.context: list[int] = []
        self.pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self.pending.append(token)
        text = self.new_text()
        if len(self.pending) <= MAX_HELD and (not text or text.endswith(REPLACEMENT)):
            return ""
        self.context, self.pending = self.pending, []
        return text

    def flush(self) -> str:
        """What is still held back; incomplete characters come out as U+FFFD."""
        text = self.new_text()
        self.context, self.pending = [], []
        return text

    def new_text(self) -> str:
        """What the pending tokens add to the context's text."""
        before = self.decode(self.context)
        return self.decode(self.context + self.pending)[len(before) :]
