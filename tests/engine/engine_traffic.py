"""Traffic through the scheduler in simulated time: what steps cost is a formula, and nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from penjing.engine import Sampling
from penjing.engine.pace import Pace
from penjing.engine.pages import PagePool
from penjing.engine.scheduler import Plan, Scheduler
from penjing.engine.sequence import Sequence
from penjing.engine.stopping import AnswerText

StepSeconds = Callable[[Plan], float]


def linear_seconds(plan: Plan) -> float:
    """About a billion parameters in 4 bits on two cores: 16 ms of reading weights, 1.1 ms for a decode, 1.4
    ms for a token of a prompt and half as much again for each thousand tokens before it."""
    prompts = sum(
        0.0014 * share.num_tokens * (1 + share.sequence.num_cached_tokens / 2000) for share in plan.prompts
    )
    return 0.016 + 0.0011 * len(plan.decodes) + prompts


@dataclass
class Traffic:
    """A scheduler, a clock, and when each sequence came and got its tokens, in seconds."""

    max_stretch: float
    step_seconds: StepSeconds = linear_seconds
    now: float = 0.0
    arrivals: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, list[float]] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pace = Pace(self.max_stretch)
        self.scheduler = Scheduler(PagePool(8192), 512, 64, 1024, self.pace)

    def submit(self, num_prompt_tokens: int, num_answer_tokens: int) -> int:
        """A prompt like no other."""
        number = len(self.arrivals) + 1
        prompt = list(range(10_000 * number, 10_000 * number + num_prompt_tokens))
        self.scheduler.submit(
            Sequence(number, prompt, len(prompt), Sampling(), "best", b"root", AnswerText(None, ()))
        )
        self.arrivals[number], self.tokens[number], self.lengths[number] = self.now, [], num_answer_tokens
        return number

    def step(self) -> None:
        """One step, and the tokens that come of it."""
        plan = self.scheduler.schedule()
        seconds = self.step_seconds(plan) if plan.shares else 0.01
        self.now += seconds
        for share in plan.shares:
            self.scheduler.complete(share)
            if share.sequence.num_pending_tokens == 0:
                self._answer(share.sequence)
        if plan.shares:
            self.pace.observe(len(plan.decodes), plan.num_prompt_tokens, seconds)

    def _answer(self, sequence: Sequence) -> None:
        sequence.tokens.append(7)
        times = self.tokens[sequence.sequence_id]
        times.append(self.now)
        if len(times) == self.lengths[sequence.sequence_id]:
            self.scheduler.remove(sequence)

    def first_token_seconds(self, number: int) -> float:
        """From arrival to the first token."""
        return self.tokens[number][0] - self.arrivals[number]

    def gaps(self, since: float = 0.0) -> np.ndarray:
        """Seconds between successive tokens of an answer, of all answers."""
        return np.concatenate([np.diff([t for t in times if t >= since]) for times in self.tokens.values()])


def steady_traffic(
    max_stretch: float,
    step_seconds: StepSeconds = linear_seconds,
    *,
    seconds: float = 120,
    period: float = 12,
) -> tuple[Traffic, list[int]]:
    """16 answers in progress, and every `period` seconds a prompt of 2,000 tokens; those prompts' numbers."""
    traffic = Traffic(max_stretch, step_seconds)
    for _ in range(16):
        traffic.submit(30, 100_000)
    prompts: list[int] = []
    while traffic.now < seconds:
        if traffic.now > 2 + period * len(prompts):
            prompts.append(traffic.submit(2000, 64))
        traffic.step()
    return traffic, [number for number in prompts if traffic.tokens[number]]
