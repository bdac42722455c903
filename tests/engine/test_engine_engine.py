from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from engine_fakes import (
    VOCAB,
    FakeArtifact,
    FakeRunner,
    drain,
    expected_answer,
    fake_engine,
    hashed_logits,
    model_config,
)

from penjing.engine import Engine, Event, Sampling
from penjing.errors import (
    CapacityError,
    EngineError,
    InputError,
    NonFiniteLogitsError,
    PromptTooLongError,
    SamplingError,
    SpecError,
    TokenizerError,
)

SAMPLED = Sampling(max_tokens=12, temperature=1.0, seed=3)


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A tokenizer whose 61 tokens are characters; joined without spaces."""
    characters = [chr(33 + index) for index in range(VOCAB)]
    model = tokenizers.models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="!")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_generate_is_greedy_over_the_models_logits() -> None:
    engine = fake_engine()
    completion = engine.generate([1, 2, 3], Sampling(max_tokens=5))
    tokens = [1, 2, 3]
    for token in completion.tokens:
        assert token == int(hashed_logits(np.array(tokens), np.ones(len(tokens))).argmax())
        tokens.append(token)
    assert (completion.prompt_tokens, len(completion.tokens), completion.finish_reason) == (3, 5, "length")
    assert completion.logprobs == ()


def test_chunked_prefill_changes_nothing() -> None:
    tokens = [n * 7 % VOCAB for n in range(150)]
    whole = fake_engine().generate(tokens, SAMPLED)
    chunked = fake_engine(max_step_tokens=11, max_sequences=4)
    assert chunked.generate(tokens, SAMPLED) == whole
    assert chunked.stats().steps == 14 + 11
    assert all(len(s.tokens) <= 11 for step in chunked._runner.steps for s in step)


def test_tiers_differ_and_mix_in_one_step() -> None:
    engine = fake_engine()
    fast, best = (engine.submit([5, 6], SAMPLED, tier) for tier in ("fast", "best"))
    answers = drain(engine)
    assert answers[fast] == expected_answer([5, 6], SAMPLED, "fast")
    assert answers[best] == expected_answer([5, 6], SAMPLED, "best")
    assert answers[fast] != answers[best]
    assert {s.tier for s in engine._runner.steps[0]} == {"fast", "best"}


def test_prefix_cache_is_kept_apart_by_tier() -> None:
    engine = fake_engine()
    tokens = [n % VOCAB for n in range(70)]
    engine.generate(tokens, SAMPLED)
    fast = engine.submit(tokens, SAMPLED, "fast")
    assert drain(engine)[fast] == expected_answer(tokens, SAMPLED, "fast")
    assert engine.stats().prefix_hit_tokens == 0
    engine.generate(tokens, SAMPLED)
    assert engine.stats().prefix_hit_tokens == 64


def test_prefix_hit_extends_over_a_generated_answer() -> None:
    engine = fake_engine()
    first = engine.generate([1] * 40, Sampling(max_tokens=30))
    conversation = [1] * 40 + list(first.tokens) + [2, 3]
    again = engine.generate(conversation, SAMPLED)
    assert engine.stats().prefix_hit_tokens == 64, "the answer's 30th token was never run, 69 were"
    assert list(again.tokens) == expected_answer(conversation, SAMPLED)


def test_group_computes_its_prompt_once_and_answers_as_singles_would() -> None:
    tokens = [n % 50 for n in range(45)]
    samplings = [replace(SAMPLED, seed=seed) for seed in range(6)]
    for options in ({}, {"num_pages": 7}, {"prefix_cache": False}):
        engine = fake_engine(**options)
        ids = engine.submit_group(tokens, samplings)
        answers = drain(engine)
        assert [answers[i] for i in ids] == [expected_answer(tokens, s) for s in samplings]
        computed = [len(s.tokens) for step in engine._runner.steps for s in step]
        assert computed.count(45) == 1
    assert len({tuple(answers[i]) for i in ids}) == 6


def test_limits_end_an_answer() -> None:
    assert fake_engine(max_positions=10).generate([1] * 8, Sampling()).finish_reason == "length"
    assert len(fake_engine(max_positions=10).generate([1] * 8, Sampling()).tokens) == 2
    eos = fake_engine().generate([4, 5], Sampling(max_tokens=9)).tokens[3]
    stopped = fake_engine(eos_ids=(eos,)).generate([4, 5], Sampling(max_tokens=9))
    assert (len(stopped.tokens), stopped.tokens[-1], stopped.finish_reason) == (4, eos, "stop")
    ignored = fake_engine(eos_ids=(eos,)).generate([4, 5], Sampling(max_tokens=9, ignore_eos=True))
    assert (len(ignored.tokens), ignored.finish_reason) == (9, "length")


def test_logprobs_are_of_the_raw_model(letters: Path) -> None:
    sampling = Sampling(max_tokens=3, temperature=0.7, logprobs=4, logit_bias={9: 50.0})
    events = list(fake_engine(path=letters).stream([1, 2], sampling))
    logits = hashed_logits(np.array([1, 2]), np.ones(2)).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    assert events[0].token == 9
    assert events[0].logprob == pytest.approx(expected[9], abs=1e-5)
    best = np.argsort(-expected)[:4]
    assert events[0].top_logprobs == tuple((int(i), pytest.approx(expected[i], abs=1e-5)) for i in best)


def test_text_streams_and_stop_text_is_withheld(letters: Path) -> None:
    engine = fake_engine(path=letters)
    free = engine.generate("AB", Sampling(max_tokens=12))
    assert free.text == "".join(chr(33 + token) for token in free.tokens)
    stop = free.text[4:7]
    events = list(engine.stream("AB", Sampling(max_tokens=12, stop=("never", stop))))
    assert "".join(event.text for event in events) == free.text[:4]
    assert [event.finish_reason for event in events] == [None] * 6 + ["stop"]
    assert [event.token for event in events] == list(free.tokens[:7])
    cut = engine.generate("AB", Sampling(max_tokens=6, stop=(stop,)))
    assert (cut.text, cut.finish_reason) == (free.text[:6], "length"), "what was held back is let go"


def test_blank_between_prompt_and_answer_belongs_to_the_answer(tmp_path: Path) -> None:
    words = {f"\N{LOWER ONE EIGHTH BLOCK}w{index}": index for index in range(VOCAB)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.decoder = tokenizers.decoders.Metaspace()  # drops the blank before a text's first word
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    completion = fake_engine(path=tmp_path).generate([1] * 20, Sampling(max_tokens=3))
    assert completion.text == "".join(f" w{token}" for token in completion.tokens)


def test_end_token_is_not_text(letters: Path) -> None:
    free = fake_engine(path=letters).generate("AB", Sampling(max_tokens=12))
    engine = fake_engine(path=letters, eos_ids=(free.tokens[5],))
    stopped = engine.generate("AB", Sampling(stop=(free.text[4] + "\0",)))
    assert stopped.text == free.text[:5]
    assert stopped.tokens == free.tokens[:6]


def test_without_a_tokenizer_there_are_tokens_only() -> None:
    engine = fake_engine()
    assert engine.generate([1], SAMPLED).text == ""
    with pytest.raises(TokenizerError):
        engine.generate("text", SAMPLED)
    with pytest.raises(TokenizerError):
        engine.submit([1], Sampling(stop=("a",)))
    assert not engine.has_work


def test_cancel_frees_pages_at_once() -> None:
    engine = fake_engine(prefix_cache=False)
    first, second = engine.submit([1] * 40, SAMPLED), engine.submit([2] * 40, SAMPLED)
    engine.step()
    assert engine.free_pages == 64 - 4
    assert engine.cancel(first) == Event(first, finish_reason="cancelled")
    assert engine.free_pages == 64 - 2
    assert engine.cancel(first) is None
    assert engine.cancel(99) is None
    assert drain(engine)[second] == expected_answer([2] * 40, SAMPLED)[1:]
    waiting = engine.submit([1], SAMPLED)
    assert engine.cancel(waiting) is not None
    assert not engine.has_work
    assert engine.step() == []


def test_closing_a_stream_cancels_it() -> None:
    engine = fake_engine()
    stream = engine.stream([1], SAMPLED)
    assert not engine.has_work, "nothing begins before the first event is asked for"
    next(stream)
    assert engine.has_work
    with pytest.raises(EngineError, match="to themselves"):
        engine.generate([2], SAMPLED)
    stream.close()
    assert not engine.has_work
    assert engine.free_pages == 64


@pytest.mark.parametrize(
    ("tokens", "sampling", "error"),
    [
        ([], Sampling(), InputError),
        ([VOCAB], Sampling(), InputError),
        ([-1], Sampling(), InputError),
        ([1] * 256, Sampling(), PromptTooLongError),
        ([1], Sampling(max_tokens=9, logit_bias={VOCAB: 1.0}), SamplingError),
        ([1] * 100, Sampling(max_tokens=100), CapacityError),
    ],
)
def test_request_that_cannot_work_is_refused_when_submitted(
    tokens: list[int], sampling: Sampling, error: type[Exception]
) -> None:
    engine = fake_engine(num_pages=6)
    with pytest.raises(error):
        engine.submit(tokens, sampling)
    assert not engine.has_work
    assert engine.stats().prompt_tokens == 0


def test_largest_request_that_fits_is_served() -> None:
    engine = fake_engine(num_pages=6)
    # 100 + 93 tokens, of which the last is never run, fill 6 pages of 32.
    assert len(engine.generate([1] * 100, Sampling(max_tokens=93)).tokens) == 93
    with pytest.raises(CapacityError, match="needs 7 KV pages and the engine has 6"):
        engine.generate([1] * 100, Sampling(max_tokens=94))


@pytest.mark.parametrize(
    "options",
    [{"num_pages": 0}, {"max_sequences": 0}, {"max_queue": 0}, {"max_step_tokens": 63}, {"max_stretch": 1.0}],
)
def test_engine_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        fake_engine(**options)


def test_unknown_tier_is_refused() -> None:
    artifact = FakeArtifact(model_config(), tiers=("best",))
    engine = Engine(artifact, runner=FakeRunner(), num_pages=4)
    with pytest.raises(SpecError, match="fast"):
        engine.submit([1], SAMPLED, "fast")
    with pytest.raises(SpecError, match="fast"):
        Engine(artifact, runner=FakeRunner(), num_pages=4, tier="fast")
    with pytest.raises(SpecError, match="fast"):
        engine.score([[1, 2]], "fast")


def test_sequence_with_broken_numbers_ends_alone() -> None:
    engine = fake_engine()
    alone = expected_answer([1, 2], SAMPLED)
    poison = next(token for token in range(3, VOCAB) if token not in alone)
    engine._runner.poison_token = poison
    bad, good = engine.submit([1, poison], SAMPLED), engine.submit([1, 2], SAMPLED)
    events = engine.step()
    assert Event(bad, finish_reason="error") in events
    assert [events[1].token, *drain(engine)[good]] == alone
    with pytest.raises(NonFiniteLogitsError):
        engine.generate([1, poison], SAMPLED)
    with pytest.raises(NonFiniteLogitsError):
        engine.score([[1, poison, 3]])
    with pytest.raises(NonFiniteLogitsError):
        list(engine.logits([1, poison, 3]))


def test_score_is_the_log_softmax_of_what_comes_next() -> None:
    engine = fake_engine(max_step_tokens=50, max_sequences=4, num_pages=8)
    lists = [[n * k % VOCAB for n in range(length)] for k, length in enumerate((2, 130, 1, 40, 3), 1)]
    scores = engine.score(lists)
    assert [len(score) for score in scores] == [1, 129, 0, 39, 2]
    assert all(score.dtype == np.float32 for score in scores)
    for tokens, score in zip(lists, scores, strict=True):
        for position, value in enumerate(score):
            logits = hashed_logits(np.array(tokens[: position + 1]), np.ones(position + 1)).astype(np.float64)
            expected = logits[tokens[position + 1]] - np.log(np.exp(logits).sum())
            assert value == pytest.approx(expected, abs=1e-5)
    assert engine.free_pages == 8
    assert max(sum(len(s.tokens) for s in step) for step in engine._runner.steps) == 50
    for other in (fake_engine(), fake_engine(max_step_tokens=7, max_sequences=1)):
        for score, same in zip(scores, other.score(lists), strict=True):
            np.testing.assert_array_equal(score, same)
    assert engine.score([]) == []


def test_score_with_few_pages_takes_more_steps() -> None:
    lists = [[n, n + 1] for n in range(20)]
    engine = fake_engine(num_pages=3)
    assert np.concatenate(engine.score(lists)).tolist() == np.concatenate(fake_engine().score(lists)).tolist()
    assert len(engine._runner.steps) == 7
    with pytest.raises(CapacityError, match="needs 4 KV pages and 3"):
        engine.score([[1] * 98])


def test_score_and_logits_run_beside_sequences() -> None:
    engine = fake_engine(num_pages=8)
    sequence_id = engine.submit([1] * 40, SAMPLED)
    tokens = list(engine.step())
    rows = engine.logits([3] * 100, "fast", rows_per_step=33)
    first = next(rows)
    assert engine.free_pages == 8 - 2 - 4
    assert len(engine.score([[1, 2, 3]])[0]) == 2
    generated = [tokens[0].token, *drain(engine)[sequence_id]]
    assert generated == expected_answer([1] * 40, SAMPLED)
    every = np.concatenate([first, *rows])
    expected = [hashed_logits(np.full(n, 3), np.zeros(n)) for n in range(1, 101)]
    np.testing.assert_array_equal(every, np.stack(expected))
    assert engine.free_pages == 8


def test_closed_logits_give_their_pages_back() -> None:
    engine = fake_engine(num_pages=8)
    rows = engine.logits([3] * 250, rows_per_step=10)
    next(rows)
    assert engine.free_pages == 0
    engine.submit([1], SAMPLED)
    with pytest.raises(CapacityError, match="logits"):
        engine.step()
    rows.close()
    assert engine.free_pages == 8
    assert len(drain(engine)[1]) == 12


def test_score_refuses_what_cannot_be_scored() -> None:
    engine = fake_engine()
    with pytest.raises(InputError):
        engine.score([[1, 2], []])
    with pytest.raises(PromptTooLongError):
        engine.score([[1] * 257])
    assert len(engine.score([[1] * 256])[0]) == 255
    with pytest.raises(SpecError, match="rows_per_step"):
        engine.logits([1], rows_per_step=0)


def test_stats_count() -> None:
    engine = fake_engine(max_sequences=1)
    engine.submit([1] * 40, SAMPLED)
    engine.submit([1] * 40, SAMPLED)
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used, stats.pages_free) == (1, 1, 2, 62)
    drain(engine)
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generated_tokens, stats.prefix_hit_tokens) == (80, 24, 32)
    assert (stats.steps, stats.running, stats.waiting, stats.pages_used) == (24, 0, 0, 0)
    assert stats.pages_free + stats.pages_cached == stats.pages_total == 64
    assert stats.pages_cached == 1


def test_an_interrupted_step_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine()
    sequence_id = engine.submit([1] * 40, SAMPLED)
    generated = [event.token for event in engine.step()]

    def interrupt(sequences: object, out: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert [*generated, *drain(engine)[sequence_id]] == expected_answer([1] * 40, SAMPLED)
