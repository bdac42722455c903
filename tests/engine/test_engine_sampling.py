from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_oracle import keep_top_k, keep_top_p, uniform

from penjing.engine import Sampling
from penjing.engine.sampling import ChoiceRequest, Sampler
from penjing.engine.stopping import AnswerText, overlap
from penjing.errors import SamplingError
from penjing.kernels import Choice, default_isa

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.25, 0.05], np.float32))
SAMPLER = Sampler(1, default_isa())


def one_choice(
    logits: np.ndarray, sampling: Sampling, tokens: Sequence[int] = (), sampler: Sampler = SAMPLER
) -> Choice:
    return sampler.choose(logits[None], [ChoiceRequest(0, sampling.options(), array("i", tokens))])[0]


def choose(logits: np.ndarray, sampling: Sampling, tokens: Sequence[int]) -> int | None:
    return one_choice(logits, sampling, tokens).token


def draws(sampling: Sampling, logits: np.ndarray = LOGITS, count: int = 4000) -> np.ndarray:
    """How often each token is drawn, over positions."""
    tokens: list[int] = []
    counts = np.zeros(len(logits))
    for _ in range(count):
        counts[choose(logits, sampling, tokens)] += 1
        tokens.append(0)
    return counts / count


@pytest.mark.parametrize(
    "option",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-9},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"seed": -1},
        {"seed": 2**64},
        {"stop": "text"},
        {"stop": ("a", "")},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: float("nan")}},
        {"logprobs": -1},
        {"logprobs": 21},
    ],
)
def test_option_out_of_range_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(SamplingError, match=next(iter(option))):
        Sampling(**option)


def test_greedy_takes_the_likeliest_and_the_lowest_id_of_equals() -> None:
    assert choose(LOGITS, Sampling(), []) == 1
    assert choose(np.array([1, 3, 3, 2], np.float32), Sampling(), []) == 1


def test_bias_comes_before_the_penalty() -> None:
    logits = np.array([1.0, 2.0, 0.0], np.float32)
    assert choose(logits, Sampling(logit_bias={0: 5.0}), []) == 0
    # (1 + 5) / 4 = 1.5 < 2; the other way round, 1 / 4 + 5 > 2
    assert choose(logits, Sampling(logit_bias={0: 5.0}, repetition_penalty=4.0), [0]) == 1
    assert logits.tolist() == [1.0, 2.0, 0.0], "the caller's logits stay as they are"


def test_penalty_lowers_seen_tokens_of_either_sign() -> None:
    assert choose(np.array([1.0, 0.6], np.float32), Sampling(repetition_penalty=2.0), [0, 0]) == 1
    assert choose(np.array([-1.0, -1.6], np.float32), Sampling(repetition_penalty=2.0), [0]) == 1


def test_draws_follow_the_distribution() -> None:
    assert draws(Sampling(temperature=1.0)) == pytest.approx([0.1, 0.4, 0.2, 0.25, 0.05], abs=0.03)
    squared = np.array([0.1, 0.4, 0.2, 0.25, 0.05]) ** 2
    assert draws(Sampling(temperature=0.5)) == pytest.approx(squared / squared.sum(), abs=0.03)


def test_filters_keep_what_they_say() -> None:
    def kept(**options: Any) -> list[int]:
        return np.flatnonzero(draws(Sampling(temperature=1.0, **options), count=600)).tolist()

    assert kept(top_k=2) == [1, 3]
    assert kept(top_p=0.6) == [1, 3]
    assert kept(top_p=0.66) == [1, 2, 3]
    assert kept(min_p=0.45) == [1, 2, 3]
    assert kept(top_k=1) == kept(top_p=1e-9) == kept(min_p=1.0) == [1]


def test_top_p_is_taken_of_what_top_k_left() -> None:
    # Of the two kept, token 1 has 0.4 / 0.65 = 0.615 of the mass, so top_p = 0.6 keeps it alone.
    assert np.flatnonzero(draws(Sampling(temperature=1.0, top_k=2, top_p=0.6), count=300)).tolist() == [1]


def test_filters_apply_after_temperature() -> None:
    # At temperature 0.5 token 1 has 0.59 of the mass, at 1 it has 0.4.
    sampling = Sampling(temperature=0.5, top_p=0.55)
    assert np.flatnonzero(draws(sampling, count=300)).tolist() == [1]
    assert len(np.flatnonzero(draws(replace(sampling, temperature=1.0), count=300))) == 2


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_top_k_is_the_stable_sort(values: list[int], top_k: int) -> None:
    logits = np.array(values, np.float32)
    order = np.argsort(-logits, kind="stable")[:top_k]
    assert keep_top_k(logits, top_k).tolist() == sorted(order.tolist())


@settings(max_examples=200)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_top_p_is_the_smallest_prefix_of_the_stable_sort(values: list[int], top_p: float) -> None:
    weights = np.array(values, np.float64)
    weights[0] = 60
    order = np.argsort(-weights, kind="stable")
    cumulative = np.cumsum(weights[order])
    size = int(np.flatnonzero(cumulative >= cumulative[-1] * top_p)[0]) + 1
    assert keep_top_p(weights, top_p).tolist() == sorted(order[:size].tolist())


def test_ruled_out_tokens_are_never_drawn() -> None:
    logits = LOGITS.copy()
    logits[[1, 3]] = -np.inf
    assert draws(Sampling(temperature=3.0), logits, 500)[[1, 3]].tolist() == [0, 0]
    assert choose(logits, Sampling(repetition_penalty=1.5), [1, 0]) == 2


def test_extreme_logits_and_temperatures_do_not_overflow() -> None:
    logits = np.array([-3e38, 5.0, 3.0], np.float32)
    assert draws(Sampling(temperature=0.5), logits, 50)[0] == 0
    assert draws(Sampling(temperature=1e-6), logits, 50)[1] == 1
    assert draws(Sampling(temperature=1e6, top_k=1), logits, 50)[1] == 1


def test_generator_is_a_function_of_seed_and_position() -> None:
    values = np.array([[uniform(seed, position) for position in range(100)] for seed in range(100)])
    assert values.min() >= 0
    assert values.max() < 1
    assert len(np.unique(values)) == values.size
    assert abs(values.mean() - 0.5) < 0.01
    assert np.abs(np.corrcoef(values)[np.triu_indices(100, 1)]).max() < 0.5
    assert uniform(7, 3) == uniform(7, 3)
    # The first outputs of splitmix64 for the state that seed 0 starts from (mix64(0) = 0).
    assert [int(uniform(0, n) * 2**53) for n in range(2)] == [
        0xE220A8397B1DCDAF >> 11,
        0x6E789E6AA1B965F4 >> 11,
    ]


def test_log_probabilities_are_of_the_raw_distribution() -> None:
    choice = one_choice(LOGITS + 100, Sampling(logprobs=3, logit_bias={2: 50.0}, temperature=3.0))
    assert choice.token == 2
    assert choice.log_probability == pytest.approx(np.log(0.2), abs=1e-5)
    assert [token for token, _ in choice.alternatives] == [1, 3, 2]
    assert [value for _, value in choice.alternatives] == pytest.approx(np.log([0.4, 0.25, 0.2]), abs=1e-5)
    assert one_choice(LOGITS, Sampling(logprobs=0)).alternatives == []
    assert len(one_choice(LOGITS, Sampling(logprobs=20)).alternatives) == 5
    ties = np.zeros(4, np.float32)
    assert [token for token, _ in one_choice(ties, Sampling(logprobs=2)).alternatives] == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("length", [1, 5, 64, 131, 2000])
def test_numbers_that_are_not_are_found_wherever_they_stand(bad: float, length: int) -> None:
    for place in {0, length // 2, length - 1}:
        logits = np.linspace(-1, 1, length, dtype=np.float32)
        logits[place] = bad
        for sampling in (Sampling(), Sampling(temperature=1.0), Sampling(logit_bias={0: 1.0})):
            assert one_choice(logits, sampling).token is None
        assert np.isnan(SAMPLER.log_normalizers(logits[None])).all()


def test_a_row_in_which_all_is_ruled_out_has_no_token() -> None:
    logits = np.full(100, -np.inf, np.float32)
    assert one_choice(logits, Sampling()).token is None
    logits[77] = -3e38
    assert one_choice(logits, Sampling(temperature=2.0, top_k=3, top_p=0.5)).token == 77


class Letters:
    """A token is a character."""

    def push(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


def deltas(text: str, stop: tuple[str, ...]) -> tuple[list[str], str, bool]:
    """What each character emits, what the end emits, and whether a stop text was found."""
    answer, emitted = AnswerText(Letters(), stop), []
    for character in text:
        emitted.append(answer.push(ord(character)))
        if answer.stopped:
            break
    return emitted, answer.finish(), answer.stopped


def test_text_flows_without_stop_texts() -> None:
    assert deltas("abc", ()) == (["a", "b", "c"], "", False)


def test_possible_beginning_of_a_stop_text_is_held_until_decided() -> None:
    assert deltas("xENyEND", ("END",)) == (["x", "", "", "ENy", "", "", ""], "", True)


def test_end_of_the_answer_releases_what_was_held() -> None:
    assert deltas("xEN", ("END",)) == (["x", "", ""], "EN", False)


def test_held_text_restarts_inside_itself() -> None:
    assert deltas("aaab", ("aab",)) == (["", "", "a", ""], "", True)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_emitted_text_is_what_stands_before_the_first_stop(text: str, stop: list[str]) -> None:
    emitted, rest, stopped = deltas(text, tuple(stop))
    ends = [text.find(s) + len(s) for s in stop if s in text]
    assert stopped == bool(ends)
    seen = text[: min(ends)] if ends else text
    expected = seen[: min(seen.find(s) for s in stop if s in seen)] if ends else text
    assert "".join(emitted) + rest == expected


def test_overlap_is_a_proper_beginning() -> None:
    assert overlap("xab", "abc") == 2
    assert overlap("abc", "abc") == 0
    assert overlap("", "abc") == 0


def test_without_a_tokenizer_there_is_no_text() -> None:
    answer = AnswerText(None, ())
    assert answer.push(5) == ""
    assert answer.finish() == ""
