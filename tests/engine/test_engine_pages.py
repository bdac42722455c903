from __future__ import annotations

import random

import pytest

from penjing.engine import memory
from penjing.engine.memory import affordable_pages, default_num_pages
from penjing.engine.pages import PagePool, page_hash, pages_for, root_hash


def test_pages_for_rounds_up() -> None:
    assert [pages_for(n) for n in (0, 1, 32, 33, 64)] == [0, 1, 1, 2, 2]


def test_hash_covers_tokens_and_everything_before_them() -> None:
    root = root_hash("artifact", "best", 0, ["int8", "int8"])
    others = [
        root_hash("other", "best", 0, ["int8", "int8"]),
        root_hash("artifact", "fast", 0, ["int8", "int8"]),
        root_hash("artifact", "best", 1, ["int8", "int8"]),
        root_hash("artifact", "best", 0, ["int8", "bf16"]),
    ]
    assert len({root, *others}) == 5
    tokens = list(range(32))
    first = page_hash(root, tokens)
    assert first == page_hash(root, tuple(tokens))
    assert first != page_hash(root, [*tokens[:-1], 99])
    assert page_hash(first, tokens) not in (first, page_hash(others[0], tokens))


def test_taken_pages_come_back() -> None:
    pool = PagePool(3)
    pages = [pool.take() for _ in range(3)]
    assert sorted(pages) == [0, 1, 2]
    assert pool.num_available == 0
    pool.check(pages)
    pool.release(pages)
    assert (pool.num_free, pool.num_cached) == (3, 0)
    pool.check([])


def test_published_page_stays_until_it_is_needed_least_recently_used_first() -> None:
    pool = PagePool(3)
    pages = [pool.take() for _ in range(3)]
    for page in pages:
        pool.publish(page, bytes([page]))
    pool.release(pages)
    assert (pool.num_free, pool.num_cached) == (0, 3)
    pool.share(pages[2])  # used again, so it is now the most recent
    pool.release([pages[2]])
    assert pool.take() == pages[1], "the end of a prefix goes before its beginning"
    assert pool.find(bytes([pages[1]])) is None
    assert pool.find(bytes([pages[0]])) == pages[0]
    assert pool.take() == pages[0]
    assert pool.take() == pages[2]
    pool.check(pages)


def test_shared_page_is_not_writable_and_survives_one_owner() -> None:
    pool = PagePool(2)
    page = pool.take()
    assert pool.is_writable(page)
    pool.share(page)
    assert not pool.is_writable(page)
    pool.check([page, page])
    pool.release([page])
    assert pool.is_writable(page)
    pool.publish(page, b"x")
    assert not pool.is_writable(page), "later prompts rely on its bytes"


def test_equal_page_is_published_once() -> None:
    pool = PagePool(2)
    first, second = pool.take(), pool.take()
    assert pool.publish(first, b"x") == first
    assert pool.publish(second, b"x") == first, "what its owner holds from now on"
    assert pool.find(b"x") == first
    assert (pool.num_free, pool.num_cached) == (1, 0)
    pool.check([first, first])


def test_nothing_is_published_without_a_prefix_cache() -> None:
    pool = PagePool(1, prefix_cache=False)
    page = pool.take()
    pool.publish(page, b"x")
    assert pool.find(b"x") is None
    assert pool.is_writable(page)


@pytest.mark.parametrize("held", [[], [0, 0], [0, 1]])
def test_check_notices_a_wrong_count(held: list[int]) -> None:
    pool = PagePool(2)
    assert pool.take() == 0
    with pytest.raises(AssertionError):
        pool.check(held)


def test_misuse_is_noticed() -> None:
    pool = PagePool(1)
    with pytest.raises(AssertionError, match="is free"):
        pool.share(0)
    with pytest.raises(AssertionError, match="more often"):
        pool.release([0])
    pool.take()
    with pytest.raises(AssertionError, match="without an available page"):
        pool.take()


@pytest.mark.parametrize("seed", range(5))
def test_random_life_keeps_the_counts(seed: int) -> None:
    random_ = random.Random(seed)
    pool, held, published = PagePool(7), [], 0
    for _ in range(2000):
        action = random_.choice(["take", "share", "release", "publish", "hit"])
        if action == "take" and pool.num_available:
            held.append(pool.take())
        elif action == "share" and held:
            held.append(random_.choice(held))
            pool.share(held[-1])
        elif action == "release" and held:
            pool.release([held.pop(random_.randrange(len(held)))])
        elif action == "publish" and held:
            published += 1
            index = random_.randrange(len(held))
            held[index] = pool.publish(held[index], bytes([published % 16]))
        elif action == "hit":
            page = pool.find(bytes([random_.randrange(16)]))
            if page is not None:
                pool.share(page)
                held.append(page)
        pool.check(held)
    pool.release(held)
    pool.check([])


def test_default_pages_follow_the_capacity() -> None:
    assert default_num_pages(1000, max_positions=100, max_sequences=3) == 3 * 4
    assert default_num_pages(7, max_positions=100, max_sequences=3) == 7, (
        "no more than the runner has room for"
    )
    assert default_num_pages(0, max_positions=100, max_sequences=3) == 4, "one full context in any case"


def test_affordable_pages_are_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * 7 * 768 + 5)
    assert affordable_pages(768) == 7


def test_available_memory_is_plausible() -> None:
    assert 1 << 20 < memory.available_bytes() < 1 << 50
