"""What a request asks of sampling, and the sampler: from rows of logits to tokens, in the compiled core.

The order is that of transformers and vLLM: logit_bias, repetition_penalty, temperature, top_k, top_p, min_p,
then one draw. The generator is a function of (seed, position) alone, so a result never depends on what else
was in the batch. Ties go to the lowest token id.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penjing.errors import SamplingError
from penjing.kernels import _core

MAX_LOGPROBS = 20
MASK64 = 2**64 - 1
LARGEST_TOP_K = 2**31 - 1  # more than any vocabulary has


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
        temperature = self.temperature
        require(
            temperature == 0 or 1e-6 <= temperature <= 1e6, "temperature", temperature, "0, or 1e-6 to 1e6"
        )
        require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        penalty = self.repetition_penalty
        require(0.01 <= penalty <= 100, "repetition_penalty", penalty, "between 0.01 and 100")
        require(0 <= self.seed <= MASK64, "seed", self.seed, "between 0 and 2^64 - 1")
        require(not isinstance(self.stop, str), "stop", self.stop, "a tuple of texts, not one text")
        require(all(self.stop), "stop", self.stop, "without empty texts")
        for token, bias in self.logit_bias.items():
            require(token >= 0 and abs(bias) <= 1e6, f"logit_bias[{token}]", bias, "between -1e6 and 1e6")
        count = self.logprobs
        require(count is None or 0 <= count <= MAX_LOGPROBS, "logprobs", count, f"0 to {MAX_LOGPROBS}")

    def options(self) -> _core.SamplingOptions:
        """What the core needs to know, for all tokens of an answer."""
        return _core.SamplingOptions(
            logit_bias=list(self.logit_bias.items()),
            repetition_penalty=self.repetition_penalty,
            temperature=self.temperature,
            top_k=min(self.top_k, LARGEST_TOP_K),
            top_p=self.top_p,
            min_p=self.min_p,
            seed=self.seed,
            num_alternatives=self.logprobs,
        )


def require(holds: bool, option: str, value: object, allowed: str) -> None:
    """Raise SamplingError unless an option is in its range."""
    if not holds:
        raise SamplingError(f"sampling option {option} is {value!r}: it must be {allowed}")


@dataclass(frozen=True)
class ChoiceRequest:
    """One token to choose: from which row of the logits, how, and after which int32 tokens."""

    row: int
    options: _core.SamplingOptions
    tokens: array[int]


class Sampler:
    """Chooses tokens. A choice is a function of its row, its sampling and the tokens before, on any machine.

    threads: that may share the rows of a call. isa: see `kernels.available_isas`. One caller at a time; the
    lock on Python is released meanwhile.
    """

    def __init__(self, threads: int, isa: str) -> None:
        self._sampler = _core.Sampler(isa, threads)

    def choose(self, logits: NDArray[np.float32], requests: Sequence[ChoiceRequest]) -> list[_core.Choice]:
        """A choice for each request, from logits [rows, vocab_size]; -Inf rules a token out.

        Its token is None for a row with NaN or +Inf in it, or with nothing but -Inf. Log-probabilities are
        those of the row as it is, before any option. Raises ValueError for rows and tokens out of range.
        """
        return self._sampler.choose(
            logits,
            [request.row for request in requests],
            [request.options for request in requests],
            [request.tokens for request in requests],
        )

    def log_normalizers(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """log(sum(exp(row))) of logits [rows, vocab_size]; NaN for a row with NaN or +Inf in it."""
        out = np.empty(len(logits), np.float64)
        self._sampler.log_normalizers(logits, out)
        return out
