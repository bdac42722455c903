"""From one row of logits to one token: filters, the draw, and log-probabilities, in numpy.

The order is that of transformers and vLLM: logit_bias, repetition_penalty, temperature, top_k, top_p, min_p,
then one draw. The generator is a function of (seed, position) alone, so a result never depends on what else
was in the batch. Ties go to the lowest token id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penjing.errors import SamplingError

MAX_LOGPROBS = 20
MASK64 = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and when a sequence ends. Raises SamplingError for a value out of range.

    max_tokens: most tokens to generate (at least 1).
    temperature: 0 is greedy, and then top_k, top_p, min_p and seed have no effect.
    top_k: keep the k most likely tokens; 0 keeps all.
    top_p: keep the smallest set of most likely tokens whose probability reaches top_p (Holtzman et al. 2020).
    min_p: keep tokens at least min_p times as likely as the likeliest (Nguyen et al. 2024).
    repetition_penalty: logits of tokens seen in prompt or answer are divided by it where positive, else
        multiplied (Keskar et al. 2019).
    seed: in 0 .. 2^64 - 1; the same seed draws the same tokens.
    stop: texts that end the answer; they are not part of it.
    logit_bias: token id to a number added to its logit.
    logprobs: None for none, else how many alternatives to report beside the chosen token (0 .. 20).
    ignore_eos: treat end-of-sequence tokens as any other.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more")
        require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        penalty = self.repetition_penalty
        require(0 < penalty < math.inf, "repetition_penalty", penalty, "above 0")
        require(0 <= self.seed <= MASK64, "seed", self.seed, "between 0 and 2^64 - 1")
        require(not isinstance(self.stop, str), "stop", self.stop, "a tuple of texts, not one text")
        require(all(self.stop), "stop", self.stop, "without empty texts")
        for token, bias in self.logit_bias.items():
            require(token >= 0 and math.isfinite(bias), f"logit_bias[{token}]", bias, "a finite number")
        count = self.logprobs
        require(count is None or 0 <= count <= MAX_LOGPROBS, "logprobs", count, f"0 to {MAX_LOGPROBS}")


def require(holds: bool, option: str, value: object, allowed: str) -> None:
    """Raise SamplingError unless an option is in its range."""
    if not holds:
        raise SamplingError(f"sampling option {option} is {value!r}: it must be {allowed}")
