"""An engine as a language model of EleutherAI's lm-evaluation-harness; needs the extra `tasks`.

Texts become tokens as in the harness's own model for transformers: a context and its continuation are encoded
together, with the tokenizer's special tokens, and parted after as many tokens as the context has alone; what
is longer than the model's context loses its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from penjing.engine import Engine, Event, Sampling
from penjing.engine.scoring import NON_FINITE
from penjing.errors import DataError, NonFiniteLogitsError, SpecError, TokenizerError

PAIRS_PER_CALL = 64  # between two reports of progress
MOST_WAITING = 64  # requests that the engine is ahead of itself
DEFAULT_ANSWER_TOKENS = 256  # the harness's own
SAMPLING_OPTIONS = {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
KNOWN_OPTIONS = {"until", "max_gen_toks", *SAMPLING_OPTIONS}

Tokens = list[int]


class EngineModel(TemplateLM):  # type: ignore[misc]
    """Answers the harness's three kinds of requests, many at a time.

    advance: is told how many more requests were answered. num_shortened: requests that lost their beginning.
    """

    def __init__(self, engine: Engine, advance: Callable[[int], None]) -> None:
        super().__init__()
        self.engine = engine
        self.advance = advance
        self.num_shortened = 0

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self.engine.config.max_positions

    @cached_property
    def eot_token_id(self) -> int:
        """The token that ends a text. Raises TokenizerError if there is none."""
        tokenizer = self.engine.tokenizer
        written = tokenizer.special_tokens.get("eos_token")
        own = None if written is None else tokenizer.backend.token_to_id(written)
        found = [*([] if own is None else [own]), *tokenizer.eos_ids]
        if not found:
            raise TokenizerError(
                f"{tokenizer.directory}: the tokenizer has no token to begin or end a text with, "
                "which tasks need; add one to tokenizer_config.json"
            )
        return int(found[0])

    @cached_property
    def prefix_token_id(self) -> int:
        """What stands for an empty context: the token that begins a text, or else the one that ends it."""
        bos = self.engine.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    @cached_property
    def _prefix_text(self) -> str:
        return self.engine.tokenizer.decode([self.prefix_token_id], skip_special=False)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> Tokens:
        """Token ids; None: with special tokens, unless the text begins with one itself."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._prefix_text)
        return self.engine.tokenizer.encode(string, add_special=add_special_tokens)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-probability, and whether greedy choice gives it."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[object, Tokens, Tokens]],
        disable_tqdm: bool,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        pairs = [self._fit(context, continuation) for _, context, continuation in requests]
        results: list[tuple[float, bool]] = []
        for start in range(0, len(pairs), PAIRS_PER_CALL):
            part = pairs[start : start + PAIRS_PER_CALL]
            scored = self.engine.score_continuations(part)
            results += [(found.log_probability, found.is_greedy) for found in scored]
            self.advance(len(part))
        return results

    def _fit(self, context: Tokens, continuation: Tokens) -> tuple[Tokens, Tokens]:
        """The pair, without the beginning that does not fit; the last token is never run."""
        if not continuation:
            raise DataError("a continuation has no token of its own: it melts into the context's last one")
        if len(continuation) > self.max_length:
            raise DataError(
                f"a continuation has {len(continuation)} tokens, more than the context of {self.max_length}"
            )
        room = self.max_length + 1 - len(continuation)
        self.num_shortened += len(context) > room
        return context[-room:], continuation

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of each whole text, in windows of the model's context, every token scored once."""
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            scored = self.engine.score_continuations([make_disjoint_window(window) for window in windows])
            totals.append(sum(window.log_probability for window in scored))
            self.advance(1)
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each (context, options), up to the first of its stop texts."""
        prompts = [self._prompt(index, *request.args) for index, request in enumerate(requests)]
        waiting = list(enumerate(prompts))[::-1]
        texts = [""] * len(waiting)
        running: dict[int, int] = {}
        try:
            while waiting or running:
                while waiting and self.engine.stats().waiting < MOST_WAITING:
                    index, (tokens, sampling) = waiting.pop()
                    running[self.engine.submit(tokens, sampling)] = index
                for event in self.engine.step():
                    texts[running[event.sequence_id]] += event.text
                    if self._has_ended(event):
                        del running[event.sequence_id]
        finally:
            for sequence_id in running:
                self.engine.cancel(sequence_id)
        return texts

    def _has_ended(self, event: Event) -> bool:
        if event.finish_reason == "error":
            raise NonFiniteLogitsError(NON_FINITE)
        if event.finish_reason is not None:
            self.advance(1)
        return event.finish_reason is not None

    def _prompt(self, index: int, context: str, options: dict[str, Any]) -> tuple[Tokens, Sampling]:
        sampling = sampling_of(options, seed=index)
        room = self.max_length - sampling.max_tokens
        if room < 1:
            raise SpecError(
                f"a task asks for answers of {sampling.max_tokens} tokens, and the model's context has "
                f"{self.max_length}"
            )
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        self.num_shortened += len(tokens) > room
        return tokens[-room:], sampling


def sampling_of(options: dict[str, Any], *, seed: int) -> Sampling:
    """A task's generation options as the engine takes them. Raises SpecError for one that it lacks.

    seed: matters only to tasks that ask for sampling. Unknown options that are off, or 1, ask for nothing.
    """
    wanted = normalize_gen_kwargs(options, DEFAULT_ANSWER_TOKENS)
    unknown = {
        name: value
        for name, value in wanted.items()
        if name not in KNOWN_OPTIONS and value not in (None, False, 1)
    }
    if unknown:
        named = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise SpecError(f"a task asks to generate with {named}, which the engine does not do")
    return Sampling(
        max_tokens=wanted["max_gen_toks"],
        temperature=float(wanted.get("temperature", 0.0)) if wanted["do_sample"] else 0.0,
        stop=tuple(text for text in wanted["until"] if text),
        seed=seed,
        top_k=int(wanted.get("top_k") or 0),
        top_p=float(wanted.get("top_p") or 1.0),
        min_p=float(wanted.get("min_p") or 0.0),
        repetition_penalty=float(wanted.get("repetition_penalty") or 1.0),
    )
