"""The text of an answer while it grows: nothing is emitted that a stop text may still take back."""

from __future__ import annotations

from penjing.text import TextStream


class AnswerText:
    """Turns tokens into text deltas, and notices stop texts even across token borders.

    stream: None where the artifact has no tokenizer; every delta is then empty.
    """

    def __init__(self, stream: TextStream | None, stop: tuple[str, ...]) -> None:
        self._stream = stream
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The delta that this token makes final; sets `stopped` when a stop text is complete."""
        return self._admit(self._stream.push(token)) if self._stream else ""

    def finish(self) -> str:
        """The last delta: an answer that ends may keep the beginning of a stop text, never a whole one."""
        text = self._admit(self._stream.flush()) if self._stream and not self.stopped else ""
        text, self._held = text + self._held, ""
        return text

    def _admit(self, delta: str) -> str:
        text = self._held + delta
        first = min((at for at in (text.find(stop) for stop in self._stop) if at >= 0), default=None)
        if first is not None:
            self.stopped, self._held = True, ""
            return text[:first]
        keep = len(text) - max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[keep:]
        return text[:keep]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
