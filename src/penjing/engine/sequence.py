"""One sequence's state, from submission to its last event."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from penjing.engine.pages import page_hash
from penjing.engine.sampling import Sampling
from penjing.engine.step import PAGE_TOKENS
from penjing.engine.stopping import AnswerText
from penjing.spec import Tier


@dataclass(eq=False)
class Sequence:
    """Tokens known, and how many of them have keys and values in pages.

    sequence_id: ascending in order of arrival, so it decides who is served first and preempted last.
    tokens: int32, prompt and answer so far. num_cached_tokens: those at the front whose KV is in `pages`.
    num_prefix_hit_tokens: prompt tokens found in the prefix cache before the first token was generated.
    root: parent hash of the first page. page_hashes: the chain over full pages, as far as it was needed.
    followers: answers to the same prompt that wait for this one to compute it, then share its pages.
    """

    sequence_id: int
    tokens: array[int]
    num_prompt_tokens: int
    sampling: Sampling
    tier: Tier
    root: bytes
    answer: AnswerText
    pages: list[int] = field(default_factory=list)
    num_cached_tokens: int = 0
    num_published_pages: int = 0
    num_prefix_hit_tokens: int = 0
    page_hashes: list[bytes] = field(default_factory=list)
    followers: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.options = self.sampling.options()

    @property
    def num_pending_tokens(self) -> int:
        """Tokens still to be run: one while decoding, more while the prompt is computed."""
        return len(self.tokens) - self.num_cached_tokens

    @property
    def num_generated_tokens(self) -> int:
        """Length of the answer."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def next_page(self) -> int | None:
        """Index of the page to be filled next, if another sequence could fill it too: none of it is filled
        yet, and it is not the last token's, which is always run for its logits. Else None."""
        index, num_filled = divmod(self.num_cached_tokens, PAGE_TOKENS)
        return None if num_filled or index >= (len(self.tokens) - 1) // PAGE_TOKENS else index

    @property
    def num_members(self) -> int:
        """This sequence and its followers."""
        return 1 + len(self.followers)

    def take_over(self, leader: Sequence) -> None:
        """Stand where a leader with the same tokens stands; references to pages are the caller's concern."""
        self.pages = list(leader.pages)
        self.num_cached_tokens = leader.num_cached_tokens
        self.num_published_pages = leader.num_published_pages
        self.page_hashes = list(leader.page_hashes)

    def hash_of_page(self, index: int) -> bytes:
        """The chained hash of the index-th page, all of whose tokens are known."""
        while len(self.page_hashes) <= index:
            parent = self.page_hashes[-1] if self.page_hashes else self.root
            start = len(self.page_hashes) * PAGE_TOKENS
            self.page_hashes.append(page_hash(parent, self.tokens[start : start + PAGE_TOKENS]))
        return self.page_hashes[index]
