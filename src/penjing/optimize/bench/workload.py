"""What is asked of whatever is timed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from pydantic import Field

from penjing.spec import Spec, validate


class Workload(Spec):
    """`streams` requests at once, each of `prompt_tokens`, each answered by `output_tokens`.

    arriving_tokens: while all the streams decode, prompts of this length arrive one after another, each when
    the one before has its first token. None: nothing arrives.
    """

    prompt_tokens: int = Field(default=256, ge=1)
    output_tokens: int = Field(default=64, ge=2)  # a rate needs two
    streams: int = Field(default=1, ge=1)
    arriving_tokens: int | None = Field(default=None, ge=1)

    @property
    def sequence_tokens(self) -> int:
        """Tokens of its longest sequence, answer included."""
        return max(self.prompt_tokens + self.output_tokens, (self.arriving_tokens or 0) + 1)

    @property
    def label(self) -> str:
        """In a few words: `16 x (128 + 64)`."""
        arriving = "" if self.arriving_tokens is None else f", {self.arriving_tokens:,} arriving"
        return f"{self.streams} x ({self.prompt_tokens:,} + {self.output_tokens:,}){arriving}"


def grid(
    prompt_tokens: Sequence[int],
    output_tokens: Sequence[int],
    streams: Sequence[int],
    arriving_tokens: int | None = None,
) -> tuple[Workload, ...]:
    """Every combination, one workload each. Raises SpecError for a number out of range."""
    return tuple(
        validate(
            Workload,
            {
                "prompt_tokens": prompt,
                "output_tokens": output,
                "streams": count,
                "arriving_tokens": arriving_tokens,
            },
            "workload",
        )
        for prompt, output, count in product(prompt_tokens, output_tokens, streams)
    )
