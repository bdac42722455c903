"""Rates and waits by hand, and the order of rounds."""

from __future__ import annotations

import pytest

from penjing.errors import SpecError
from penjing.optimize.bench.results import make_row
from penjing.optimize.bench.rounds import Rounds, run_rounds
from penjing.optimize.bench.timeline import Stream, Timeline
from penjing.optimize.bench.workload import Workload, grid

EARLY = Stream(0.0, (1.0, 2.0, 3.0), prompt_tokens=10, output_tokens=3)
LATE = Stream(0.5, (2.0, 3.0, 5.0), prompt_tokens=20, output_tokens=3)


def test_rates_by_hand() -> None:
    timeline = Timeline((EARLY, LATE))
    assert timeline.prefill_rate == 30 / 2
    assert timeline.decode_rate == 2.0  # one token of each in (2, 3], while both decode
    assert timeline.gaps == [1.0, 1.0, 1.0, 2.0]
    assert (EARLY.ttft, LATE.ttft) == (1.0, 1.5)


def test_a_piece_of_text_counts_as_its_tokens() -> None:
    stream = Stream(0.0, (1.0, 2.0, 4.0), prompt_tokens=1, output_tokens=9)
    assert Timeline((stream,)).decode_rate == 2.0  # two pieces of three tokens in three seconds


def test_where_prompts_arrive_only_gaps_among_them_count() -> None:
    early = Stream(0.0, (1.0, 2.0, 2.5, 4.0), prompt_tokens=1, output_tokens=4)
    late = Stream(0.0, (2.0, 3.0), prompt_tokens=1, output_tokens=2)
    came = Stream(2.0, (2.75,), prompt_tokens=7, output_tokens=1)
    assert Timeline((early, late), (came,)).gaps == [0.5, 1.5, 1.0]


def test_what_cannot_be_a_rate_is_refused() -> None:
    after = Stream(0.0, (3.0, 4.0), prompt_tokens=1, output_tokens=2)
    with pytest.raises(SpecError, match="more output tokens"):
        Timeline((EARLY, after))
    with pytest.raises(SpecError, match="no arriving prompt"):
        Timeline((EARLY,), ())


def test_a_row_is_medians_and_quantiles() -> None:
    workload = Workload(prompt_tokens=10, output_tokens=3)
    slow = Stream(0.0, (2.0, 4.0, 6.0), prompt_tokens=10, output_tokens=3)
    row = make_row(workload, [Timeline((EARLY,)), Timeline((EARLY,)), Timeline((slow,))], None, integer=True)
    assert (row.prefill_tokens_per_second, row.decode_tokens_per_second) == (10.0, 1.0)
    assert row.ttft_seconds.p50 == 1.0
    assert row.inter_token_seconds.p99 == 2.0
    assert (row.limit, row.prefill_share, row.arriving_ttft_seconds) == (None, None, None)
    assert (row.prompt_tokens, row.output_tokens, row.tokens_per_arrival) == (10, 3, 1)


def test_workloads_take_turns_with_prompts_of_their_own() -> None:
    asked: list[tuple[int, int]] = []

    class Recorder:
        def run(self, workload: Workload, seed: int) -> Timeline:
            asked.append((workload.prompt_tokens, seed))
            return Timeline((EARLY,))

    steps: list[tuple[str, int, int]] = []
    workloads = grid((8, 16), (4,), (1,))
    found = run_rounds(Recorder(), workloads, Rounds(counted=2, warmup=1), lambda *step: steps.append(step))
    assert asked == [(8, 0), (16, 1), (8, 2), (16, 3), (8, 4), (16, 5)]
    assert [len(timelines) for timelines in found] == [2, 2]
    assert steps[-1] == ("bench", 6, 6)


def test_a_grid_is_every_combination() -> None:
    labels = [workload.label for workload in grid((128, 512), (64,), (1, 16), 2000)]
    assert labels[1] == "16 x (128 + 64), 2,000 arriving"
    assert len(labels) == 4
    assert grid((8,), (2,), (1,), 100)[0].sequence_tokens == 101
    for wrong in (((0,), (2,), (1,)), ((8,), (1,), (1,)), ((8,), (2,), (0,))):
        with pytest.raises(SpecError, match="workload"):
            grid(*wrong)
    with pytest.raises(SpecError, match="at least"):
        run_rounds(None, (), Rounds(), lambda *_: None)  # type: ignore[arg-type]
