"""The engine: submit sequences, step, receive events."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.artifact import Artifact
from penjing.engine import sequence as state
from penjing.engine.continuations import Continuation, ContinuationScorer, Pair
from penjing.engine.limits import check_fits, check_limits, check_tier, check_tokens
from penjing.engine.memory import default_num_pages
from penjing.engine.outputs import Completion, EngineStats, Event, FinishReason, completion_of
from penjing.engine.pace import MAX_STRETCH, Pace
from penjing.engine.pages import PagePool, root_hash
from penjing.engine.runner import CpuRunner
from penjing.engine.sampling import ChoiceRequest, Sampler, Sampling
from penjing.engine.scheduler import Plan, Scheduler
from penjing.engine.scoring import NON_FINITE, Scorer
from penjing.engine.step import Runner
from penjing.engine.stopping import AnswerText
from penjing.errors import EngineError, NonFiniteLogitsError, SpecError
from penjing.kernels import Choice, default_isa
from penjing.measure.machine import usable_cores
from penjing.spec import Tier
from penjing.text import TextStream, Tokenizer

CONTEXT_TOKENS = 8  # of the prompt, so that an answer's first token is decoded as a continuation


class Engine:
    """Continuous batching over one artifact.

    Single-threaded by design: one thread calls every method. A service gives the engine a thread of its own
    and talks to it through queues.

    source: a path, which is read into memory, or an open artifact, which is used as it is: decoding is
    fastest from `Artifact.open(path, in_memory=True)`. tier: the default precision (None: the artifact's
    best). num_pages: KV pages of 32 tokens (None: a quarter of the available memory at most).
    max_step_tokens: most tokens in one step, at least max_sequences, which is how many sequences run at a
    time. max_queue: most sequences that may wait. max_stretch: how many times as long a step may take because
    of prompts, while answers wait for their next token; infinity makes prompts as fast as can be. runner:
    where to compute, if not on this CPU; `threads` and `isa` are for this CPU, which samples in any case.
    Raises SpecError for settings that cannot work, a subclass of ArtifactError, and CapacityError if the
    pages cannot be allocated.
    """

    def __init__(
        self,
        source: str | Path | Artifact,
        *,
        tier: Tier | None = None,
        threads: int | None = None,
        isa: str | None = None,
        num_pages: int | None = None,
        max_step_tokens: int = 512,
        max_sequences: int = 64,
        max_queue: int = 1024,
        max_stretch: float = MAX_STRETCH,
        prefix_cache: bool = True,
        runner: Runner | None = None,
    ) -> None:
        check_limits(num_pages, max_step_tokens, max_sequences, max_queue, max_stretch)
        if isinstance(source, (str, Path)):
            source = Artifact.open(source, in_memory=True)
        self.artifact = source
        self.config = self.artifact.config
        self._default_tier = check_tier(tier or self.artifact.tiers[-1], self.artifact)
        self._runner: Runner = runner or CpuRunner(self.artifact, threads=threads, isa=isa)
        if num_pages is None:
            num_pages = default_num_pages(self._runner.capacity, self.config.max_positions, max_sequences)
        self._runner.allocate(num_pages)
        self._pool = PagePool(num_pages, prefix_cache=prefix_cache)
        pace = Pace(max_stretch)
        self._scheduler = Scheduler(self._pool, max_step_tokens, max_sequences, max_queue, pace)
        self._sampler = Sampler(threads or usable_cores(), isa or default_isa())
        self._scorer = Scorer(
            self._runner, self._pool, self._sampler, self.config.vocab_size, max_step_tokens
        )
        self._continuations = ContinuationScorer(
            self._runner,
            self._pool,
            self._sampler,
            max_tokens=max_step_tokens,
            max_rows=self._scorer.max_rows,
        )
        # Every step's logits; memory is spent on as many rows as ever were wanted at a time.
        self._logits = np.empty((max_sequences, self.config.vocab_size), np.float32)
        self._sequences: dict[int, state.Sequence] = {}
        self._num_submitted = self._num_steps = 0
        self._num_prompt_tokens = self._num_generated_tokens = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer. Raises TokenizerError if the artifact has none."""
        return Tokenizer.load(self.artifact.path)

    @cached_property
    def _has_tokenizer(self) -> bool:
        return (self.artifact.path / "tokenizer.json").is_file()

    def submit(self, tokens: Sequence[int], sampling: Sampling, tier: Tier | None = None) -> int:
        """Queue one sequence; its id (ascending, never reused).

        An artifact without a tokenizer is served in token ids: its events have no text.

        Raises InputError (no tokens, an unknown id), SamplingError (an unknown id in logit_bias),
        PromptTooLongError, SpecError (a tier that the artifact lacks), CapacityError (the queue is full, or
        the sequence could never fit the pages), TokenizerError (stop texts, but no tokenizer).
        """
        return self.submit_group(tokens, [sampling], tier)[0]

    def submit_group(
        self, tokens: Sequence[int], samplings: Sequence[Sampling], tier: Tier | None = None
    ) -> list[int]:
        """Queue several answers to one prompt, which is computed once; an id for each, in order.

        Answers differ only if their samplings do: `[replace(s, seed=s.seed + i) for i in range(n)]`.
        Raises as `submit` does.
        """
        tier = check_tier(tier or self._default_tier, self.artifact)
        check_tokens(tokens, self.config.max_positions - 1, self.config)
        for sampling in samplings:
            check_fits(len(tokens), sampling, self._pool.num_pages, self.config)
        leader, *followers = [self._new_sequence(tokens, sampling, tier) for sampling in samplings]
        leader.followers = followers
        self._scheduler.submit(leader)
        for member in (leader, *followers):
            self._sequences[member.sequence_id] = member
            self._num_prompt_tokens += len(tokens)
        return [member.sequence_id for member in (leader, *followers)]

    def step(self) -> list[Event]:
        """Schedule, run, postprocess: at most one new token for each running sequence.

        Raises CapacityError if pages that an open `logits` iterator holds leave no room for any sequence.
        """
        start_seconds = time.perf_counter()
        plan = self._scheduler.schedule()
        if not plan.shares:
            return []
        logits = self._run(plan)
        events = self._postprocess(plan, logits)
        self._scheduler.pace.observe(
            len(plan.decodes), plan.num_prompt_tokens, time.perf_counter() - start_seconds
        )
        return events

    def _run(self, plan: Plan) -> NDArray[np.float32]:
        if plan.copies:
            self._runner.copy_pages(plan.copies)
        self._num_steps += 1
        shares = [share.as_step() for share in plan.shares]
        return self._runner.step(shares, out=self._logits[: sum(len(share.wanted) for share in shares)])

    def _postprocess(self, plan: Plan, logits: NDArray[np.float32]) -> list[Event]:
        """A token for every sequence whose last known token was run; answers to one prompt share its row."""
        leaders = []
        for share in plan.shares:
            self._scheduler.complete(share)
            if share.sequence.num_pending_tokens == 0:
                leaders.append(share.sequence)
        members = [
            (row, member) for row, leader in enumerate(leaders) for member in self._scheduler.fork(leader)
        ]
        requests = [ChoiceRequest(row, member.options, member.tokens) for row, member in members]
        choices = self._sampler.choose(logits, requests)
        return [self._advance(member, choice) for (_, member), choice in zip(members, choices, strict=True)]

    def _advance(self, sequence: state.Sequence, choice: Choice) -> Event:
        """Take one sequence's next token, and see whether it ends there."""
        token = choice.token
        if token is None:
            return self._finish(sequence, "error")
        sequence.tokens.append(token)
        self._num_generated_tokens += 1
        is_end = token in self.config.eos_ids and not sequence.sampling.ignore_eos
        text = "" if is_end else sequence.answer.push(token)
        reason = self._finish_reason(sequence, is_end)
        if reason:
            text += self._finish(sequence, reason).text
        hits = sequence.num_prefix_hit_tokens if sequence.num_generated_tokens == 1 else 0
        event = Event(sequence.sequence_id, token, text, prefix_hit_tokens=hits, finish_reason=reason)
        if sequence.sampling.logprobs is None:
            return event
        return replace(event, logprob=choice.log_probability, top_logprobs=tuple(choice.alternatives))

    def _finish_reason(self, sequence: state.Sequence, is_end: bool) -> FinishReason | None:
        if is_end or sequence.answer.stopped:
            return "stop"
        full = len(sequence.tokens) == self.config.max_positions
        return "length" if full or sequence.num_generated_tokens == sequence.sampling.max_tokens else None

    def _finish(self, sequence: state.Sequence, reason: FinishReason) -> Event:
        """Forget a sequence and free its pages; its last event, with the text that was held back."""
        self._scheduler.remove(sequence)
        del self._sequences[sequence.sequence_id]
        return Event(sequence.sequence_id, text=sequence.answer.finish(), finish_reason=reason)

    def cancel(self, sequence_id: int) -> Event | None:
        """End a sequence now and free its pages; its last event, or None if it is unknown or has ended."""
        sequence = self._sequences.get(sequence_id)
        return self._finish(sequence, "cancelled") if sequence else None

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or runs."""
        return bool(self._sequences)

    def generate(self, prompt: str | Sequence[int], sampling: Sampling = Sampling()) -> Completion:  # noqa: B008
        """Run one prompt to its end. Text is encoded with the tokenizer's special tokens.

        Raises as `submit` and `stream` do.
        """
        tokens = self._encode(prompt)
        return completion_of(len(tokens), list(self.stream(tokens, sampling)))

    def stream(self, prompt: str | Sequence[int], sampling: Sampling = Sampling()) -> Iterator[Event]:  # noqa: B008
        """The events of one prompt, as they come. Closing the iterator cancels the sequence.

        It drives the engine itself. At the first event it raises what `submit` raises, and EngineError while
        submitted sequences are at work; later NonFiniteLogitsError if the model produces NaN or Inf.
        """
        if self.has_work:
            raise EngineError(
                "generate and stream need the engine to themselves: finish what was submitted first"
            )
        sequence_id = self.submit(self._encode(prompt), sampling)
        try:
            while sequence_id in self._sequences:
                for event in self.step():
                    if event.finish_reason == "error":
                        raise NonFiniteLogitsError(NON_FINITE)
                    yield event
        finally:
            self.cancel(sequence_id)

    def score(
        self, sequences: Sequence[Sequence[int]], tier: Tier | None = None
    ) -> list[NDArray[np.float32]]:
        """For each list of n tokens, float32 [n - 1]: natural log of p(tokens[i + 1] | tokens[: i + 1]).

        Raises InputError, PromptTooLongError, SpecError, CapacityError (too few pages are free just now) and
        NonFiniteLogitsError.
        """
        for tokens in sequences:
            check_tokens(tokens, self.config.max_positions, self.config)
        return self._scorer.score(sequences, check_tier(tier or self._default_tier, self.artifact))

    def score_continuations(self, pairs: Sequence[Pair], tier: Tier | None = None) -> list[Continuation]:
        """How likely each (context, continuation) goes on as given, both in tokens.

        Pairs beside each other whose contexts are equal, or begin alike, cost little more than one. A
        continuation's last token is not run, so that both together may exceed the model's positions by one.
        Raises as `score` does.
        """
        for context, continuation in pairs:
            check_tokens(context, self.config.max_positions, self.config)
            check_tokens(continuation, self.config.max_positions + 1 - len(context), self.config)
        tier = check_tier(tier or self._default_tier, self.artifact)
        return self._continuations.score(pairs, tier, self._root(tier))

    def logits(
        self, tokens: Sequence[int], tier: Tier | None = None, rows_per_step: int = 256
    ) -> Iterator[NDArray[np.float32]]:
        """Every token's logits, in order, as arrays float32 [at most rows_per_step, vocab_size].

        The iterator holds pages until it is exhausted or closed. Raises as `score` does.
        """
        check_tokens(tokens, self.config.max_positions, self.config)
        if rows_per_step < 1:
            raise SpecError(f"rows_per_step is {rows_per_step}: it must be at least 1")
        tier = check_tier(tier or self._default_tier, self.artifact)
        return self._scorer.logits(tokens, tier, rows_per_step)

    def stats(self) -> EngineStats:
        """A snapshot of counters and gauges."""
        return EngineStats(
            prompt_tokens=self._num_prompt_tokens,
            generated_tokens=self._num_generated_tokens,
            prefix_hit_tokens=self._scheduler.num_prefix_hit_tokens,
            preemptions=self._scheduler.num_preemptions,
            steps=self._num_steps,
            running=len(self._scheduler.running),
            waiting=self._scheduler.num_waiting,
            pages_total=self._pool.num_pages,
            pages_free=self._pool.num_free,
            pages_cached=self._pool.num_cached,
            pages_used=self._pool.num_pages - self._pool.num_available,
        )

    @property
    def free_pages(self) -> int:
        """Pages that no sequence references (cached ones included: they can be evicted)."""
        return self._pool.num_available

    def check_invariants(self) -> None:
        """AssertionError unless every page is free, cached, or referenced exactly as often as counted."""
        scheduler = self._scheduler
        lines = [*scheduler.running, *scheduler.waiting]
        members = [member for leader in lines for member in (leader, *leader.followers)]
        assert {member.sequence_id for member in members} == set(self._sequences), "a sequence is lost"
        assert len(members) == len(self._sequences), "a sequence is in line twice"
        assert [member.sequence_id for member in lines] == sorted(member.sequence_id for member in lines)
        assert all(not leader.pages for leader in scheduler.waiting), "a waiting sequence holds pages"
        held = [page for member in members for page in member.pages]
        self._pool.check([*held, *self._scorer.held_pages])

    def _encode(self, prompt: str | Sequence[int]) -> Sequence[int]:
        return self.tokenizer.encode(prompt, add_special=True) if isinstance(prompt, str) else prompt

    def _new_sequence(self, tokens: Sequence[int], sampling: Sampling, tier: Tier) -> state.Sequence:
        self._num_submitted += 1
        return state.Sequence(
            sequence_id=self._num_submitted,
            tokens=array("i", map(int, tokens)),
            num_prompt_tokens=len(tokens),
            sampling=sampling,
            tier=tier,
            root=self._root(tier),
            answer=AnswerText(self._open_stream(tokens, sampling), sampling.stop),
        )

    def _root(self, tier: Tier) -> bytes:
        kv_formats = [name for block in self.config.blocks for name in (block.key_format, block.value_format)]
        return root_hash(self.artifact.hash, tier, 0, kv_formats)

    def _open_stream(self, tokens: Sequence[int], sampling: Sampling) -> TextStream | None:
        """A decoder that starts after the prompt; None if there is no tokenizer, and no need of one."""
        if not self._has_tokenizer and not sampling.stop:
            return None
        stream = self.tokenizer.streamer()
        stream.context = list(tokens[-CONTEXT_TOKENS:])
        return stream
