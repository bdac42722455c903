"""When the answers to one round of a workload came, and the rates and waits that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from penjing.errors import SpecError


@dataclass(frozen=True)
class Stream:
    """One request. Times are seconds on one clock; an arrival is a token, or over HTTP a piece of text.

    output_tokens: of the answer, which may be more than arrivals.
    """

    submitted: float
    arrivals: tuple[float, ...]
    prompt_tokens: int
    output_tokens: int

    @property
    def ttft(self) -> float:
        """Submission to first arrival."""
        return self.arrivals[0] - self.submitted


@dataclass(frozen=True)
class Timeline:
    """One round: the streams, and the prompts that arrived while they decoded.

    Raises SpecError if there was no time at which all streams decoded, or no arriving prompt was read in it.
    """

    streams: tuple[Stream, ...]
    arriving: tuple[Stream, ...] | None = None

    def __post_init__(self) -> None:
        if self.decode_ends <= self.decode_begins:
            raise SpecError(
                "the first stream ended before the last began: ask for more output tokens, or fewer streams"
            )
        if self.arriving == ():
            raise SpecError(
                "no arriving prompt was read while the streams decoded: ask for more output tokens"
            )

    @property
    def decode_begins(self) -> float:
        """From here on, every prompt is read."""
        return max(stream.arrivals[0] for stream in self.streams)

    @property
    def decode_ends(self) -> float:
        """Until here, every stream decodes."""
        return min(stream.arrivals[-1] for stream in self.streams)

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second, from the first submission until every stream has its first token."""
        begin = min(stream.submitted for stream in self.streams)
        return sum(stream.prompt_tokens for stream in self.streams) / (self.decode_begins - begin)

    @property
    def decode_rate(self) -> float:
        """Tokens a second of all streams, while all of them decode."""
        tokens = 0.0
        for stream in self.streams:
            inside = sum(self.decode_begins < at <= self.decode_ends for at in stream.arrivals)
            tokens += inside * stream.output_tokens / len(stream.arrivals)
        return tokens / (self.decode_ends - self.decode_begins)

    @property
    def gaps(self) -> list[float]:
        """Seconds between successive arrivals of a stream; where prompts arrive, from then on."""
        begin = float("-inf") if self.arriving is None else self.decode_begins
        return [
            after - before
            for stream in self.streams
            for before, after in pairwise(stream.arrivals)
            if after > begin
        ]
