"""Random traffic through small page pools: every survivor gets what it would have got alone."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from engine_fakes import VOCAB, expected_answer, fake_engine

from penjing.engine import Engine, Sampling
from penjing.engine.pages import page_hash
from penjing.engine.step import StepSequence


@dataclass
class Request:
    tokens: list[int]
    samplings: list[Sampling]
    tier: str
    arrival_step: int
    cancel_step: int | None


def make_requests(random_: random.Random, count: int) -> list[Request]:
    """Prompts that share beginnings, some asked for several answers, some given up on."""
    stems = [[random_.randrange(VOCAB) for _ in range(96)] for _ in range(4)]
    requests = []
    for _ in range(count):
        stem = random_.choice(stems)[: random_.choice([0, 5, 31, 32, 33, 64, 80, 96])]
        tail = [random_.randrange(VOCAB) for _ in range(random_.randrange(1, 40))]
        sampling = Sampling(
            max_tokens=random_.randrange(1, random_.choice([20, 50, 100])),
            temperature=random_.choice([0.0, 0.8, 1.5]),
            top_k=random_.choice([0, 5]),
            top_p=random_.choice([1.0, 0.9]),
            repetition_penalty=random_.choice([1.0, 1.2]),
            seed=random_.randrange(100),
        )
        samplings = [replace(sampling, seed=n) for n in range(random_.choice([1, 1, 1, 3]))]
        arrival = random_.randrange(60)
        cancel = arrival + random_.randrange(60) if random_.random() < 0.25 else None
        requests.append(Request(stem + tail, samplings, random_.choice(["fast", "best"]), arrival, cancel))
    return requests


@pytest.fixture
def parents(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """The parent of every page hash that is computed."""
    known: dict[bytes, bytes] = {}

    def recorded(parent: bytes, tokens: list[int]) -> bytes:
        child = page_hash(parent, tokens)
        known[child] = parent
        return child

    monkeypatch.setattr("penjing.engine.sequence.page_hash", recorded)
    return known


def check_chains(engine: Engine, parents: dict[bytes, bytes]) -> None:
    """No page is offered whose parent was evicted before it: nobody could find it."""
    offered = engine._pool._page_of_hash
    assert all(parents[key] in offered or parents[key] not in parents for key in offered)


def run_traffic(
    engine: Engine, requests: list[Request], parents: dict[bytes, bytes]
) -> tuple[dict[int, list[int]], dict[int, Request]]:
    """Tokens of every sequence, and of which request it was, checking invariants after every step."""
    answers: dict[int, list[int]] = {}
    owners: dict[int, Request] = {}
    step = 0
    while engine.has_work or step < 120:
        for request in requests:
            if request.arrival_step == step:
                ids = engine.submit_group(request.tokens, request.samplings, request.tier)
                owners |= dict.fromkeys(ids, request)
                answers |= {sequence_id: [] for sequence_id in ids}
            if request.cancel_step == step:
                for sequence_id in [i for i, owner in owners.items() if owner is request]:
                    engine.cancel(sequence_id)
        for event in engine.step():
            answers[event.sequence_id].append(event.token)
        engine.check_invariants()
        check_chains(engine, parents)
        step += 1
        assert step < 20_000, "no end in sight"
    return answers, owners


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("num_pages", "max_step_tokens", "max_sequences", "prefix_cache"),
    [(8, 24, 24, True), (14, 40, 9, True), (14, 40, 9, False), (30, 64, 64, True), (200, 512, 64, True)],
)
def test_traffic_changes_no_token(
    seed: int,
    num_pages: int,
    max_step_tokens: int,
    max_sequences: int,
    prefix_cache: bool,
    parents: dict[bytes, bytes],
) -> None:
    engine = fake_engine(
        num_pages=num_pages,
        max_step_tokens=max_step_tokens,
        max_sequences=max_sequences,
        prefix_cache=prefix_cache,
    )
    requests = make_requests(random.Random(seed), 64)
    answers, owners = run_traffic(engine, requests, parents)
    for sequence_id, tokens in answers.items():
        request = owners[sequence_id]
        first_id = min(i for i, owner in owners.items() if owner is request)
        alone = expected_answer(request.tokens, request.samplings[sequence_id - first_id], request.tier)
        if request.cancel_step is None:
            assert tokens == alone
        else:
            assert tokens == alone[: len(tokens)], "cancelled answers are beginnings"
    stats = engine.stats()
    assert engine.free_pages == num_pages
    assert (stats.prefix_hit_tokens > 0) == prefix_cache or num_pages <= 14
    assert num_pages == 30 or (stats.preemptions > 0) == (num_pages < 30)
    for step in engine._runner.steps:
        assert sum(len(share.tokens) for share in step) <= max_step_tokens
        assert len(step) <= max_sequences
        check_nobody_writes_what_others_read(step)


def check_nobody_writes_what_others_read(step: list[StepSequence]) -> None:
    """Within a step, the pages that a sequence writes are nobody else's."""
    for share in step:
        first, last = share.first_position // 32, (share.first_position + len(share.tokens) - 1) // 32
        written = set(share.pages[first : last + 1].tolist())
        for other in step:
            assert other is share or not written & set(other.pages.tolist())
