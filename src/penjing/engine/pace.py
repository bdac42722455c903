"""How many prompt tokens a step may take while others wait for their next token.

A step's time is taken as that of its decodes alone plus so much for each prompt token. Both are measured as
the engine runs (medians of the last few steps), because they depend on model, machine and load; the answer
changes when a token comes and never which.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field
from statistics import median_low

MAX_STRETCH = 1.7  # by default
MIN_PROMPT_TOKENS = 8  # so that prompts make progress whatever the measurements say
RECENT = 5  # steps whose median counts
STALE_STEPS = 64  # after which the time of decodes alone is measured again


@dataclass
class Recent:
    """The seconds of the last few steps of one kind."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    last_step: int = 0

    @property
    def median(self) -> float:
        """The lower one of an even number."""
        return median_low(self.seconds)


class Pace:
    """Lets a step in which one prompt is computed take at most `max_stretch` times as long as its decodes.

    When n prompts wait, the added time is sqrt(n) times as long: that minimises a weighted sum of the time
    between tokens, which grows with what a step adds, and of the time to first tokens, which n prompts wait
    and which falls with it; and prompts that come faster than one by one could be served do not pile up.

    max_stretch: above 1; infinity lets prompts have all that a step can take.
    """

    def __init__(self, max_stretch: float) -> None:
        self.max_stretch = max_stretch
        self._num_steps = 0
        self._decodes: defaultdict[int, Recent] = defaultdict(Recent)  # by how many there are in a step
        self._prompt_token = Recent()

    def prompt_tokens(self, num_decodes: int, num_prompts: int, most: int) -> int:
        """Prompt tokens of a step with so many of each; at most `most`, and without decodes just that.

        0 asks for a step of decodes alone, to be measured: so many were not timed twice yet, or not lately.
        """
        if num_decodes == 0 or num_prompts == 0 or math.isinf(self.max_stretch):
            return most
        alone = self._decodes[num_decodes]
        if len(alone.seconds) < 2 or self._num_steps - alone.last_step > STALE_STEPS:
            return 0
        if not self._prompt_token.seconds:
            return min(most, MIN_PROMPT_TOKENS)
        spare_seconds = (self.max_stretch - 1) * alone.median * math.sqrt(num_prompts)
        return min(most, max(MIN_PROMPT_TOKENS, int(spare_seconds / self._prompt_token.median)))

    def observe(self, num_decodes: int, num_prompt_tokens: int, seconds: float) -> None:
        """Learn from a step that took so many seconds."""
        self._num_steps += 1
        if num_prompt_tokens == 0:
            alone = self._decodes[num_decodes]
            alone.seconds.append(seconds)
            alone.last_step = self._num_steps
        elif num_decodes == 0 or self._decodes[num_decodes].seconds:
            decode_seconds = self._decodes[num_decodes].median if num_decodes else 0.0
            added_seconds = max(seconds - decode_seconds, 0.05 * seconds)
            self._prompt_token.seconds.append(added_seconds / num_prompt_tokens)
