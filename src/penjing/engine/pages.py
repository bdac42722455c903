"""KV pages as integers: reference counts, and a prefix cache over full pages by chained hash.

A page is in exactly one of three states: free (nothing in it), cached (no sequence references it, but its
hash is published, so that a later prompt can take it over), or referenced. Cached pages are evicted least
recently used first. Only the runner knows what a page's bytes are.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from penjing.engine.step import PAGE_TOKENS


def pages_for(num_tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-num_tokens // PAGE_TOKENS)


def root_hash(artifact: str, tier: str, adapter: int, kv_formats: Iterable[str]) -> bytes:
    """The parent of every first page: whatever decides keys and values, other than the tokens."""
    return hashlib.sha256("\n".join([artifact, tier, str(adapter), *kv_formats]).encode()).digest()


def page_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of a full page: its parent's (hence all earlier tokens) and its own PAGE_TOKENS tokens."""
    return hashlib.sha256(parent + np.asarray(tokens, np.int32).tobytes()).digest()


class PagePool:
    """Hands out page ids 0 .. num_pages - 1 and takes them back."""

    def __init__(self, num_pages: int, *, prefix_cache: bool = True) -> None:
        self.num_pages = num_pages
        self.prefix_cache = prefix_cache
        self._free = list(range(num_pages - 1, -1, -1))  # a stack: page 0 is taken first
        self._references = [0] * num_pages
        self._hash_of_page: dict[int, bytes] = {}
        self._page_of_hash: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        """Pages with nothing in them."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Published pages that no sequence references."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that `take` can hand out: free, or cached and evictable."""
        return len(self._free) + len(self._cached)

    def take(self) -> int:
        """A page to write into, referenced once; if none is free, the cached page unused for longest."""
        assert self.num_available, "take() without an available page"
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            del self._page_of_hash[self._hash_of_page.pop(page)]
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more reference to a page that is referenced or cached."""
        assert self._references[page] or page in self._cached, f"page {page} is free"
        self._cached.pop(page, None)
        self._references[page] += 1

    def release(self, pages: Sequence[int]) -> None:
        """Drop one reference to each. Later pages of a prefix are useless without the earlier ones, so they
        are put first in line for eviction."""
        for page in reversed(pages):
            assert self._references[page] > 0, f"page {page} released more often than taken"
            self._references[page] -= 1
            if self._references[page]:
                continue
            if page in self._hash_of_page:
                self._cached[page] = None
            else:
                self._free.append(page)

    def is_writable(self, page: int) -> bool:
        """Whether only its one owner would notice a write."""
        return self._references[page] == 1 and page not in self._hash_of_page

    def publish(self, page: int, page_hash: bytes) -> int:
        """Offer a full page of computed tokens to later prompts; the page that its owner must hold from now.

        That is another one if an equal page is offered already. So whoever holds an offered page holds all
        that come before it in its chain, and no page is evicted before those that are useless without it.
        """
        assert self._references[page] > 0, f"page {page} is published without an owner"
        offered = self._page_of_hash.get(page_hash)
        if offered is not None and offered != page:
            self.share(offered)
            self.release([page])
            return offered
        if self.prefix_cache and page not in self._hash_of_page:
            self._hash_of_page[page] = page_hash
            self._page_of_hash[page_hash] = page
        return page

    def find(self, page_hash: bytes) -> int | None:
        """The published page with this hash."""
        return self._page_of_hash.get(page_hash)

    def check(self, references: Iterable[int]) -> None:
        """AssertionError unless `references` (every page id held, once a holder) matches the counts."""
        held = Counter(references)
        for page, count in enumerate(self._references):
            assert held[page] == count, f"page {page}: {held[page]} holders, {count} references counted"
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a page is free twice"
        assert not free & cached, f"pages both free and cached: {free & cached}"
        assert not (free | cached) & set(held), "a page is referenced, and free or cached"
        assert len(free) + len(cached) + len(held) == self.num_pages, "a page is lost"
        assert {page: key for key, page in self._page_of_hash.items()} == self._hash_of_page
        assert cached <= set(self._hash_of_page), "a cached page has no hash"
        assert not free & set(self._hash_of_page), "a free page has a hash"
