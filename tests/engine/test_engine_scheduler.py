from __future__ import annotations

import math

import pytest
from engine_fakes import EMPTY

from penjing.engine import Sampling
from penjing.engine.pace import Pace
from penjing.engine.pages import PagePool
from penjing.engine.scheduler import Plan, Scheduler, allot
from penjing.engine.sequence import Sequence
from penjing.engine.stopping import AnswerText
from penjing.errors import CapacityError


def make(
    pages: int = 16, tokens: int = 64, sequences: int = 4, queue: int = 8, cache: bool = True
) -> Scheduler:
    return Scheduler(PagePool(pages, prefix_cache=cache), tokens, sequences, queue, Pace(math.inf))


def sequence(sequence_id: int, length: int, first_token: int | None = None) -> Sequence:
    start = 1000 * sequence_id if first_token is None else first_token
    tokens = list(range(start, start + length))
    return Sequence(sequence_id, tokens, length, Sampling(), "best", b"root", AnswerText(None, ()))


def run(scheduler: Scheduler) -> list[tuple[int, int]]:
    """One step of a model that always says EMPTY; (sequence id, tokens) of each share."""
    plan: Plan = scheduler.schedule()
    for share in plan.shares:
        scheduler.complete(share)
        if share.sequence.num_pending_tokens == 0:
            for member in scheduler.fork(share.sequence):
                member.tokens.append(EMPTY)
    check(scheduler)
    return [(share.sequence.sequence_id, share.num_tokens) for share in plan.shares]


def check(scheduler: Scheduler) -> None:
    scheduler.pool.check(page for member in scheduler.running for page in member.pages)
    assert [s.sequence_id for s in scheduler.running] == sorted(s.sequence_id for s in scheduler.running)


def test_prompts_are_cut_to_the_budget_and_decodes_go_first() -> None:
    scheduler = make()
    scheduler.submit(sequence(1, 10))
    scheduler.submit(sequence(2, 100))
    assert run(scheduler) == [(1, 10), (2, 54)]
    assert run(scheduler) == [(1, 1), (2, 46)]
    scheduler.submit(sequence(3, 63))
    assert run(scheduler) == [(1, 1), (2, 1), (3, 62)]
    assert run(scheduler) == [(1, 1), (2, 1), (3, 1)]


def test_slots_bound_what_runs() -> None:
    scheduler = make(sequences=2)
    for sequence_id in (1, 2, 3):
        scheduler.submit(sequence(sequence_id, 5))
    assert run(scheduler) == [(1, 5), (2, 5)]
    assert scheduler.num_waiting == 1
    scheduler.remove(scheduler.running[0])
    assert run(scheduler) == [(2, 1), (3, 5)]
    assert scheduler.num_waiting == 0


def test_nobody_overtakes_a_prompt_that_waits_for_pages() -> None:
    scheduler = make(pages=4)
    scheduler.submit(sequence(1, 60))
    run(scheduler)
    scheduler.submit(sequence(2, 90))
    scheduler.submit(sequence(3, 5))
    assert run(scheduler) == [(1, 1)]
    scheduler.remove(scheduler.running[0])
    assert run(scheduler) == [(2, 64)]
    assert run(scheduler) == [(2, 26)], "one free page is left to the running sequence"


def test_latest_arrival_is_preempted_and_comes_back_first() -> None:
    scheduler = make(pages=4, cache=False)
    scheduler.submit(sequence(1, 31))
    scheduler.submit(sequence(2, 31))
    assert run(scheduler) == [(1, 31), (2, 31)]
    run(scheduler)
    run(scheduler)  # both cross into a second page
    assert scheduler.pool.num_available == 0
    scheduler.submit(sequence(3, 1))
    for _ in range(31):
        assert run(scheduler) == [(1, 1), (2, 1)]
    assert run(scheduler) == [(1, 1)], "no page is left for both, and 2 came later"
    assert scheduler.num_preemptions == 1
    assert [s.sequence_id for s in scheduler.waiting] == [2, 3]
    assert scheduler.running[0].num_cached_tokens == 65
    scheduler.remove(scheduler.running[0])
    assert run(scheduler) == [(2, 64)], "recomputed, with what it had generated"
    assert run(scheduler) == [(2, 1)], "3 waits: the last free page is left to 2"


def test_prompt_hits_published_pages_but_computes_its_last_token() -> None:
    scheduler = make()
    scheduler.submit(sequence(1, 64, first_token=0))
    run(scheduler)
    scheduler.submit(sequence(2, 64, first_token=0))
    assert run(scheduler) == [(1, 1), (2, 32)]
    scheduler.submit(sequence(3, 65, first_token=0))
    assert run(scheduler) == [(1, 1), (2, 1), (3, 1)]
    assert scheduler.num_prefix_hit_tokens == 32 + 64
    first, second, third = scheduler.running
    assert first.pages[0] == second.pages[0] == third.pages[0]
    assert first.pages[1] == second.pages[1] == third.pages[1], "an equal page is given up for the first"
    assert scheduler.pool.num_available == 16 - 2 - 3


def test_prompts_share_half_of_a_step_in_order_and_half_by_length() -> None:
    assert allot([], 64) == []
    assert allot([100], 64) == [64]
    assert allot([100, 20, 30], 64) == [32, 20, 12]
    assert allot([100, 50, 50], 64) == [32, 32, 0]
    assert allot([10, 100, 5], 64) == [10, 49, 5]
    assert allot([10, 100, 5], 7) == [4, 0, 3]
    assert allot([3, 4], 0) == [0, 0]


def test_equal_prompts_are_computed_once_even_if_they_come_at_once() -> None:
    scheduler = make(sequences=8)
    for sequence_id in (1, 2):
        scheduler.submit(sequence(sequence_id, 80, first_token=0))
    scheduler.submit(sequence(3, 70, first_token=500))
    assert run(scheduler) == [(1, 32), (3, 32)], "2 waits for pages of 1"
    assert run(scheduler) == [(1, 32), (3, 32)]
    assert run(scheduler) == [(1, 16), (2, 16), (3, 6)]
    first, second, third = scheduler.running
    assert first.pages[:2] == second.pages[:2]
    assert [s.num_prefix_hit_tokens for s in (first, second, third)] == [0, 64, 0]
    assert scheduler.num_prefix_hit_tokens == 64
    assert scheduler.pool.num_free == 16 - 3 - 1 - 3


def test_a_prompt_computes_what_an_earlier_one_leaves_undone() -> None:
    scheduler = make(sequences=8)
    for sequence_id in (1, 2):
        scheduler.submit(sequence(sequence_id, 200, first_token=0))
    assert run(scheduler) == [(1, 64)]
    scheduler.remove(scheduler.running[0])
    assert run(scheduler) == [(2, 64)]
    assert scheduler.running[0].num_prefix_hit_tokens == 64


def test_without_a_prefix_cache_nobody_waits_for_pages_of_others() -> None:
    scheduler = make(cache=False)
    for sequence_id in (1, 2):
        scheduler.submit(sequence(sequence_id, 40, first_token=0))
    assert run(scheduler) == [(1, 40), (2, 24)]


def test_preempted_sequence_finds_its_own_pages_again() -> None:
    scheduler = make(pages=4)
    scheduler.submit(sequence(1, 20))
    scheduler.submit(sequence(2, 33))
    assert run(scheduler) == [(1, 20), (2, 33)]
    for _ in range(31):
        assert run(scheduler) == [(1, 1), (2, 1)]
    assert run(scheduler) == [(1, 1)], "2 has filled two pages, 1 and 2 hold all four"
    scheduler.remove(scheduler.running[0])
    assert run(scheduler) == [(2, 1)], "of 65 tokens, 64 are still in their pages"


def test_followers_share_the_prompt_and_copy_on_write() -> None:
    scheduler = make()
    leader = sequence(1, 40)
    leader.followers = [sequence(2, 40, 1000), sequence(3, 40, 1000)]
    scheduler.submit(leader)
    assert scheduler.num_waiting == 3
    assert run(scheduler) == [(1, 40)]
    assert [s.sequence_id for s in scheduler.running] == [1, 2, 3]
    assert scheduler.pool.num_available == 16 - 2
    plan = scheduler.schedule()
    assert len(plan.copies) == 2, "the last owner keeps the page"
    assert {source for source, _ in plan.copies} == {scheduler.running[-1].pages[1]}
    assert scheduler.pool.num_available == 16 - 4
    check(scheduler)


def test_cancelled_leader_leaves_its_prompt_to_a_follower() -> None:
    scheduler = make()
    leader, second, third = sequence(1, 100), sequence(2, 100, 1000), sequence(3, 100, 1000)
    leader.followers = [second, third]
    scheduler.submit(leader)
    run(scheduler)
    scheduler.remove(leader)
    check(scheduler)
    assert run(scheduler) == [(2, 36)]
    scheduler.remove(second)
    assert run(scheduler) == [(3, 1)]


def test_cancelled_follower_and_waiting_leader() -> None:
    scheduler = make()
    leader, second = sequence(1, 100), sequence(2, 100, 1000)
    leader.followers = [second]
    scheduler.submit(leader)
    scheduler.remove(leader)
    assert list(scheduler.waiting) == [second]
    third = sequence(3, 10)
    second.followers = [third]
    scheduler.remove(third)
    assert scheduler.num_waiting == 1
    scheduler.remove(second)
    assert scheduler.num_waiting == 0
    assert scheduler.schedule().shares == []


def test_full_queue_and_large_groups_are_refused() -> None:
    scheduler = make(queue=2)
    scheduler.submit(sequence(1, 5))
    scheduler.submit(sequence(2, 5))
    with pytest.raises(CapacityError, match="2 of 2 places in the queue"):
        scheduler.submit(sequence(3, 5))
    leader = sequence(4, 5)
    leader.followers = [sequence(n, 5) for n in range(5, 9)]
    with pytest.raises(CapacityError, match="5 answers"):
        scheduler.submit(leader)
    assert scheduler.num_waiting == 2


def test_pages_held_elsewhere_are_named_as_the_obstacle() -> None:
    scheduler = make(pages=1)
    page = scheduler.pool.take()
    scheduler.submit(sequence(1, 5))
    with pytest.raises(CapacityError, match="logits"):
        scheduler.schedule()
    scheduler.pool.release([page])
    assert run(scheduler) == [(1, 5)]
