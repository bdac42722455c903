"""How prompts share steps with answers in progress, in simulated time."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from engine_traffic import Traffic, linear_seconds, steady_traffic

from penjing.engine.pace import MIN_PROMPT_TOKENS, RECENT, STALE_STEPS, Pace
from penjing.engine.scheduler import Plan


def measured_pace(max_stretch: float = 1.5) -> Pace:
    """Four decodes take 0.1 s, a prompt's token 0.001 s."""
    pace = Pace(max_stretch)
    for _ in range(RECENT):
        pace.observe(4, 0, 0.1)
        pace.observe(0, 100, 0.1)
    return pace


def test_prompts_have_the_whole_step_when_nobody_waits_for_a_token() -> None:
    assert Pace(1.5).prompt_tokens(0, 1, 512) == 512
    assert Pace(math.inf).prompt_tokens(16, 1, 496) == 496


def test_decodes_are_timed_alone_before_prompts_join_them() -> None:
    pace = Pace(1.5)
    for _ in range(2):
        assert pace.prompt_tokens(3, 1, 509) == 0
        pace.observe(3, 0, 0.1)
    assert pace.prompt_tokens(3, 1, 509) == MIN_PROMPT_TOKENS, "what prompts cost is not known yet"
    assert pace.prompt_tokens(3, 1, 5) == 5
    assert pace.prompt_tokens(4, 1, 509) == 0, "nor what one decode more costs"


def test_a_step_is_filled_up_to_its_stretch() -> None:
    pace = measured_pace()
    assert pace.prompt_tokens(4, 1, 508) == 50
    assert pace.prompt_tokens(4, 1, 20) == 20
    for _ in range(RECENT):
        pace.observe(4, 50, 0.2)
    assert pace.prompt_tokens(4, 1, 508) == 25, "mixed steps took longer than thought"


def test_a_crowd_of_prompts_may_stretch_a_step_further() -> None:
    pace = measured_pace()
    assert [pace.prompt_tokens(4, crowd, 508) for crowd in (0, 1, 4, 9)] == [508, 50, 100, 150]


def test_an_outlier_changes_nothing() -> None:
    pace = measured_pace()
    pace.observe(4, 0, 9.0)
    pace.observe(4, 50, 9.0)
    assert pace.prompt_tokens(4, 1, 508) == 50


def test_prompts_progress_whatever_was_measured() -> None:
    pace = measured_pace(1.001)
    assert pace.prompt_tokens(4, 1, 508) == MIN_PROMPT_TOKENS
    for _ in range(RECENT):
        pace.observe(4, 8, 0.01)  # less than the decodes alone, as measured
    assert 0 < pace.prompt_tokens(4, 1, 508) <= 508


def test_old_measurements_are_renewed() -> None:
    pace = measured_pace()
    for _ in range(STALE_STEPS):
        assert pace.prompt_tokens(4, 1, 508)
        pace.observe(4, 50, 0.15)
    assert pace.prompt_tokens(4, 1, 508) == 0
    pace.observe(4, 0, 0.1)
    assert pace.prompt_tokens(4, 1, 508) == 50


def test_long_prompts_do_not_double_the_time_between_tokens() -> None:
    """Every 40 seconds one of 2,000 tokens beside 16 answers; steps jitter, and one in 200 takes thrice as
    long for reasons of its own."""
    generator = random.Random(0)

    def jittered(plan: Plan) -> float:
        return linear_seconds(plan) * generator.uniform(0.95, 1.1) * (3 if generator.random() < 0.005 else 1)

    traffic, prompts = steady_traffic(1.7, jittered, period=40)
    gaps = traffic.gaps(since=2)
    assert np.quantile(gaps, 0.99) < 2 * np.median(gaps)
    assert max(traffic.first_token_seconds(number) for number in prompts) < 13
    greedy, prompts = steady_traffic(math.inf, period=40)
    assert greedy.gaps(since=2).max() > 20 * np.median(gaps), "what the pace is for"
    assert max(greedy.first_token_seconds(number) for number in prompts) > 4, "and what it costs"


def test_a_crowd_is_not_held_down_by_its_first_answers() -> None:
    """Not for lack of measurements of so many decodes, nor by steps too small to be worth reading weights."""
    seconds = {}
    for max_stretch in (1.7, math.inf):
        traffic = Traffic(max_stretch)
        numbers = [traffic.submit(500, 40) for _ in range(16)]
        while traffic.scheduler.running or traffic.scheduler.waiting:
            traffic.step()
        seconds[max_stretch] = traffic.now
        assert all(len(traffic.tokens[number]) == 40 for number in numbers)
    assert seconds[1.7] < 1.6 * seconds[math.inf]


@pytest.mark.parametrize("max_stretch", [1.7, math.inf])
def test_neither_a_long_prompt_nor_many_short_ones_starve_others(max_stretch: float) -> None:
    traffic = Traffic(max_stretch)
    huge = traffic.submit(30_000, 4)
    traffic.step()
    short = traffic.submit(40, 4)
    while not traffic.tokens[short]:
        traffic.step()
    assert traffic.first_token_seconds(short) < 2.5, "the huge one takes a minute"
    alone = Traffic(max_stretch)
    first = alone.submit(30_000, 4)
    while not alone.tokens[first]:
        alone.step()
    while not traffic.tokens[huge]:  # a new short prompt every step
        if traffic.scheduler.num_waiting < 100:
            traffic.submit(600, 2)
        traffic.step()
    assert traffic.first_token_seconds(huge) < 2.5 * alone.first_token_seconds(first)
