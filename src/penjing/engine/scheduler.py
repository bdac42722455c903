"""Who runs in the next step: continuous batching under a token budget and a page budget.

Decodes go first, one token each, so that answers in progress never wait for a long prompt. Prompts follow in
chunks, as many tokens as the pace allows (pace.py): half for the earliest, the rest for the shortest first,
so that neither a long prompt nor many short ones keep others waiting for long. A prompt whose next page is
being computed for an earlier one waits for that page and takes it over.

Admission is in order of arrival. A sequence gets all pages of its known tokens when it is admitted; only
decoding needs another page later. When there is none, the latest arrived sequence gives up its pages and
waits, first in line, to be recomputed (its whole prefix, answer included; the engine's bitwise promise makes
that invisible). The earliest is never preempted by others, and a sequence that could not fit alone is refused
when it is submitted, so every step makes progress.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from penjing.engine.pace import Pace
from penjing.engine.pages import PagePool, pages_for
from penjing.engine.sequence import Sequence
from penjing.engine.step import PAGE_TOKENS, StepSequence
from penjing.errors import CapacityError


@dataclass(frozen=True)
class Share:
    """One sequence's part of a step: its next `num_tokens` pending tokens."""

    sequence: Sequence
    num_tokens: int

    def as_step(self) -> StepSequence:
        """As the runner takes it; logits are wanted once the last known token is run."""
        tokens, first = self.sequence.tokens, self.sequence.num_cached_tokens
        stop = first + self.num_tokens
        wanted = [self.num_tokens - 1] if stop == len(tokens) else []
        return StepSequence(
            tokens=np.asarray(tokens[first:stop], np.int32),
            first_position=first,
            pages=np.asarray(self.sequence.pages[: pages_for(stop)], np.int32),
            wanted=np.asarray(wanted, np.int32),
            tier=self.sequence.tier,
        )


@dataclass
class Plan:
    """One step: pages to copy first (source, target), then the shares to run: decodes, and then prompts."""

    copies: list[tuple[int, int]] = field(default_factory=list)
    decodes: list[Share] = field(default_factory=list)
    prompts: list[Share] = field(default_factory=list)

    @property
    def shares(self) -> list[Share]:
        """All of them."""
        return self.decodes + self.prompts

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of prompts, or of what a preempted sequence had before."""
        return sum(share.num_tokens for share in self.prompts)


class Scheduler:
    """Owns the waiting line and the running set; both are in order of arrival."""

    def __init__(
        self, pool: PagePool, max_step_tokens: int, max_sequences: int, max_queue: int, pace: Pace
    ) -> None:
        assert max_step_tokens >= max_sequences, "a step must have a token for every decode"
        self.pool = pool
        self.max_step_tokens = max_step_tokens
        self.max_sequences = max_sequences
        self.max_queue = max_queue
        self.pace = pace
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prefix_hit_tokens = 0

    @property
    def num_waiting(self) -> int:
        """Sequences in line, and those whose prompt another one is computing."""
        return sum(leader.num_members for leader in self.waiting) + self._num_slots - len(self.running)

    @property
    def _num_slots(self) -> int:
        """Running sequences, and those that will run as soon as their prompt is computed."""
        return sum(leader.num_members for leader in self.running)

    def submit(self, sequence: Sequence) -> None:
        """Put a new sequence, with its followers, in line. Raises CapacityError if there is no place."""
        most, size = self.max_sequences, sequence.num_members
        if size > most:
            raise CapacityError(
                f"{size} answers to one prompt, but only {most} sequences run at a time: ask for fewer"
            )
        if self.num_waiting + size > self.max_queue:
            raise CapacityError(
                f"{self.num_waiting} of {self.max_queue} places in the queue are taken: try again later"
            )
        self.waiting.append(sequence)

    def schedule(self) -> Plan:
        """Choose the next step. Empty if there is nothing to do.

        Raises CapacityError if nothing can run because pages are held from outside.
        """
        plan = Plan()
        preemptions_before = self.num_preemptions
        for sequence in list(self.running):
            if sequence.num_pending_tokens == 1 and self._make_room(sequence, plan):
                plan.decodes.append(Share(sequence, 1))
        prompts = [sequence for sequence in self.running if sequence.num_pending_tokens > 1]
        if self.num_preemptions == preemptions_before:
            prompts += self._admit_waiting()
        num_decodes, num_prompts = len(plan.decodes), len(prompts) + len(self.waiting)
        budget = self.pace.prompt_tokens(num_decodes, num_prompts, self.max_step_tokens - num_decodes)
        plan.prompts = self._share_out(budget, prompts)
        if not plan.shares and self.waiting:
            raise CapacityError("no page is left for the next step: close the open iterators of logits()")
        return plan

    def _make_room(self, sequence: Sequence, plan: Plan) -> bool:
        """Give a decoding sequence a page that it may write its next token into; preempt for it if needed.

        False if it was itself preempted, by this call or by an earlier one.
        """
        index = sequence.num_cached_tokens // PAGE_TOKENS
        while sequence.pages:
            has_page = index < len(sequence.pages)
            if has_page and self.pool.is_writable(sequence.pages[index]):
                return True
            if not self.pool.num_available:
                self._preempt(self.running[-1])
            elif has_page:
                plan.copies.append(self._copy_on_write(sequence, index))
            else:
                sequence.pages.append(self.pool.take())
        return False

    def _copy_on_write(self, sequence: Sequence, index: int) -> tuple[int, int]:
        """A page of its own in place of one that is shared; (source, target) of the copy."""
        shared, own = sequence.pages[index], self.pool.take()
        sequence.pages[index] = own
        self.pool.release([shared])
        return shared, own

    def _preempt(self, victim: Sequence) -> None:
        """Take a sequence's pages; what it published may survive in the cache until it is back."""
        self.running.remove(victim)
        self._release(victim)
        self.waiting.appendleft(victim)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages = []
        sequence.num_cached_tokens = sequence.num_published_pages = 0

    def _admit_waiting(self) -> list[Sequence]:
        """First come, first served: nobody overtakes a sequence that does not fit yet."""
        admitted: list[Sequence] = []
        while self.waiting and self._allocate(self.waiting[0]):
            admitted.append(self.waiting.popleft())
            self.running.append(admitted[-1])
        return admitted

    def _allocate(self, sequence: Sequence) -> bool:
        """Give a sequence a slot, and pages for its known tokens, cached ones first; False if it must wait.

        A page is left to each running sequence, so that an admission is not undone by the next decode.
        """
        if self._num_slots + sequence.num_members > self.max_sequences:
            return False
        hits = self._share_prefix(sequence)
        num_missing = pages_for(len(sequence.tokens)) - len(hits)
        if self.pool.num_available < num_missing + len(self.running):
            self.pool.release(hits)
            return False
        sequence.pages = hits + [self.pool.take() for _ in range(num_missing)]
        sequence.num_cached_tokens = len(hits) * PAGE_TOKENS
        sequence.num_published_pages = len(hits)
        self.num_prefix_hit_tokens += sequence.num_cached_tokens
        if not sequence.num_generated_tokens:
            sequence.num_prefix_hit_tokens = sequence.num_cached_tokens
        return True

    def _share_prefix(self, sequence: Sequence) -> list[int]:
        """Take published pages of this prefix; the last token is always left to run, for its logits."""
        pages: list[int] = []
        if self.pool.prefix_cache:
            for index in range((len(sequence.tokens) - 1) // PAGE_TOKENS):
                page = self.pool.find(sequence.hash_of_page(index))
                if page is None:
                    break
                self.pool.share(page)
                pages.append(page)
        return pages

    def _share_out(self, budget: int, prompts: list[Sequence]) -> list[Share]:
        """What each prompt gets of the step; those whose next page is computed for an earlier one wait."""
        ready: list[Sequence] = []
        for prompt in prompts:
            if self.pool.prefix_cache:
                self._catch_up(prompt)
                if any(computes_next_page(earlier, prompt) for earlier in ready):
                    continue
            ready.append(prompt)
        allotted = allot([prompt.num_pending_tokens for prompt in ready], budget)
        return [Share(prompt, count) for prompt, count in zip(ready, allotted, strict=True) if count]

    def _catch_up(self, sequence: Sequence) -> None:
        """Take over what was published since the sequence was admitted, in place of its own empty pages."""
        while (index := sequence.next_page) is not None:
            page = self.pool.find(sequence.hash_of_page(index))
            if page is None:
                return
            self.pool.share(page)
            self.pool.release([sequence.pages[index]])
            sequence.pages[index] = page
            sequence.num_published_pages += 1
            sequence.num_cached_tokens += PAGE_TOKENS
            self.num_prefix_hit_tokens += PAGE_TOKENS
            if not sequence.num_generated_tokens:
                sequence.num_prefix_hit_tokens += PAGE_TOKENS

    def complete(self, share: Share) -> None:
        """Note that a share was computed, and publish the pages that it filled."""
        sequence = share.sequence
        sequence.num_cached_tokens += share.num_tokens
        if self.pool.prefix_cache:
            for index in range(sequence.num_published_pages, sequence.num_cached_tokens // PAGE_TOKENS):
                sequence.pages[index] = self.pool.publish(sequence.pages[index], sequence.hash_of_page(index))
                sequence.num_published_pages += 1

    def fork(self, leader: Sequence) -> list[Sequence]:
        """Let followers run from the leader's computed prompt; the leader and they, in order of arrival."""
        followers, leader.followers = leader.followers, []
        for follower in followers:
            follower.take_over(leader)
            for page in follower.pages:
                self.pool.share(page)
            insort(self.running, follower, key=lambda sequence: sequence.sequence_id)
        return [leader, *followers]

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended, wherever it is, and free its pages at once."""
        for line in (self.running, self.waiting):
            for index, leader in enumerate(line):
                if sequence in leader.followers:
                    leader.followers.remove(sequence)
                    return
                if leader is sequence:
                    self._remove_at(line, index)
                    return

    def _remove_at(self, line: list[Sequence] | deque[Sequence], index: int) -> None:
        """A leader's place, and what it has computed, go to its first follower."""
        leader = line[index]
        if leader.followers:
            heir, *rest = leader.followers
            heir.take_over(leader)
            heir.followers, leader.pages = rest, []
            line[index] = heir
        else:
            self._release(leader)
            del line[index]


def computes_next_page(earlier: Sequence, sequence: Sequence) -> bool:
    """Whether an earlier prompt is about to compute the page that a sequence needs next."""
    index = sequence.next_page
    if index is None or index >= len(earlier.tokens) // PAGE_TOKENS:
        return False
    return earlier.hash_of_page(index) == sequence.hash_of_page(index)


def allot(num_pending: list[int], budget: int) -> list[int]:
    """Tokens for each prompt, in order of arrival: half for the first, the rest for the shortest first."""
    allotted = [min(count, (budget + 1) // 2) for count in num_pending[:1]] + [0] * len(num_pending[1:])
    left = budget - sum(allotted)
    for index in sorted(range(len(num_pending)), key=num_pending.__getitem__):
        more = min(left, num_pending[index] - allotted[index])
        allotted[index] += more
        left -= more
    return allotted
