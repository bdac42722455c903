"""Continuations of shared contexts: the same scores as of whole texts, whatever is shared or cut."""

from __future__ import annotations

import numpy as np
import pytest
from engine_fakes import FakeArtifact, FakeRunner, model_config
from engine_models import RandomWeights, small_config

from penjing.engine import Continuation, Engine
from penjing.engine.continuations import ContinuationScorer, Pair, cut_branches, cut_waves
from penjing.engine.pages import PagePool
from penjing.engine.runner import CpuRunner
from penjing.engine.sampling import Sampler
from penjing.engine.scoring import Scorer
from penjing.errors import CapacityError, InputError, NonFiniteLogitsError, PromptTooLongError, SpecError

WEIGHTS = RandomWeights(small_config())
ROOT = b"root"


class Parts:
    """A scorer and what it works with; `tokens_run` counts."""

    def __init__(self, *, num_pages: int = 256, max_tokens: int = 128, prefix_cache: bool = True) -> None:
        self.runner = CpuRunner(WEIGHTS, threads=1)
        self.runner.allocate(num_pages)
        self.pool = PagePool(num_pages, prefix_cache=prefix_cache)
        self.sampler = Sampler(1, self.runner.isa)
        self.tokens_run = 0
        step = self.runner.step

        def counted(sequences, out=None):
            self.tokens_run += sum(len(sequence.tokens) for sequence in sequences)
            return step(sequences, out)

        self.runner.step = counted
        self.scorer = ContinuationScorer(
            self.runner, self.pool, self.sampler, max_tokens=max_tokens, max_rows=max_tokens // 2
        )

    def score(self, pairs: list[Pair]) -> list[Continuation]:
        found = self.scorer.score(pairs, "best", ROOT)
        self.pool.check([])
        return found


def drawn(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 101, length)]


def questions() -> list[Pair]:
    """Six questions after the same examples, of four choices each, two of which differ in the last token."""
    pairs: list[Pair] = []
    for question in range(6):
        context = [*drawn(0, 150), *drawn(question + 1, 20 + 7 * question)]
        first = drawn(100 + question, 3)
        pairs += [(context, choice) for choice in (first, [*first[:-1], 5], [7], drawn(question, 9))]
    return pairs


def test_scores_are_those_of_whole_texts() -> None:
    parts, pairs = Parts(), [*questions(), (drawn(3, 1), drawn(4, 300)), (drawn(5, 64), [1])]
    whole = Scorer(parts.runner, parts.pool, parts.sampler, 101, 128)
    expected = whole.score([[*context, *continuation] for context, continuation in pairs], "best")
    for found, scores, (context, _) in zip(parts.score(pairs), expected, pairs, strict=True):
        assert found.log_probability == pytest.approx(float(scores[len(context) - 1 :].sum()), rel=1e-5)


def test_what_is_shared_or_cut_changes_no_bit() -> None:
    pairs = questions()
    expected = Parts().score(pairs)
    assert Parts(prefix_cache=False).score(pairs) == expected
    assert Parts(num_pages=9, max_tokens=10).score(pairs) == expected
    assert Parts().score(pairs[::-1])[::-1] == expected
    parts = Parts()
    assert [parts.score([pair])[0] for pair in pairs] == expected


def test_shared_contexts_are_run_once() -> None:
    parts, pairs = Parts(), questions()
    context, choice = pairs[0]
    parts.score([(context, [token]) for token in range(40)])
    assert parts.tokens_run == len(context)
    parts.tokens_run = 0
    parts.score([(context, choice)])
    assert parts.tokens_run == len(context) % 32 + len(choice) - 1, "its full pages are in the prefix cache"


def test_greedy_choice_is_recognised() -> None:
    parts, context = Parts(), drawn(1, 40)
    whole = Scorer(parts.runner, parts.pool, parts.sampler, 101, 128)
    answer: list[int] = []
    for _ in range(3):
        (logits,) = whole.logits([*context, *answer], "best", 256)
        answer.append(int(logits[-1].argmax()))
    other = (answer[-1] + 1) % 101
    found = parts.score([(context, answer), (context, [*answer[:-1], other]), (context, [other, *answer])])
    assert [score.is_greedy for score in found] == [True, False, False]


def test_pages_are_given_back_after_a_failure() -> None:
    parts = Parts()
    step = parts.runner.step

    def broken(sequences, out=None):
        return step(sequences, out) * np.float32("nan")

    parts.runner.step = broken
    with pytest.raises(NonFiniteLogitsError):
        parts.score(questions())
    parts.pool.check([])
    with pytest.raises(CapacityError, match="needs 4 KV pages and 3 are available"):
        Parts(num_pages=3).score([(drawn(0, 100), [1])])


def test_waves_fit_the_pages() -> None:
    pairs = questions()
    waves = list(cut_waves(pairs, 12, 10_000))
    assert [pair for wave in waves for pair in wave] == pairs
    assert len(waves) > 1
    assert len(list(cut_waves(pairs, 1000, 10_000))) == 1
    assert len(list(cut_waves(pairs, 1000, 300))) > 2
    assert list(cut_branches([], 8, 4)) == []


def test_the_engine_checks_what_it_is_asked() -> None:
    engine = Engine(FakeArtifact(model_config(max_positions=64)), runner=FakeRunner())
    full = engine.score_continuations([([1] * 60, [2] * 5), ([1], [2])])
    assert full[0].log_probability < full[1].log_probability < 0
    with pytest.raises(PromptTooLongError):
        engine.score_continuations([([1] * 60, [2] * 6)])
    with pytest.raises(InputError, match="no tokens"):
        engine.score_continuations([([], [1])])
    with pytest.raises(InputError, match="no tokens"):
        engine.score_continuations([([1], [])])
    with pytest.raises(InputError, match="vocabulary"):
        engine.score_continuations([([1], [61])])
    with pytest.raises(SpecError, match="tier"):
        engine.score_continuations([([1], [1])], tier="middling")
    fast, best = (engine.score_continuations([([1] * 40, [2])], tier=tier) for tier in ("fast", "best"))
    assert fast != best, "pages of one tier are not found by the other"
