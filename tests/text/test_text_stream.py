from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_samples import byte_fallback, byte_level, write_tokenizer

from penjing.text import Tokenizer
from penjing.text.stream import MAX_HELD, REPLACEMENT

BACKENDS = {"byte_level": byte_level, "byte_fallback": byte_fallback}


@pytest.fixture(scope="session", params=sorted(BACKENDS))
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp(request.param)
    return Tokenizer.load(write_tokenizer(directory, BACKENDS[request.param]()))


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.streamer()
    return [*(stream.push(token) for token in ids), stream.flush()]


@given(text=st.text(max_size=40).filter(lambda text: REPLACEMENT not in text))
@settings(deadline=None, max_examples=150)
def test_text_streams_to_itself(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids) == text
    assert not any(REPLACEMENT in part for part in parts)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_arbitrary_tokens_never_split_a_character(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 5), max_size=30))
    parts = pieces(tokenizer, ids)
    "".join(parts).encode("utf-8")
    if REPLACEMENT not in tokenizer.decode(ids):
        assert "".join(parts) == tokenizer.decode(ids)


def test_a_character_of_several_tokens_comes_out_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦊🌵")
    assert len(ids) >= 6
    parts = pieces(tokenizer, ids)
    assert [part for part in parts if part] == ["🦊", "🌵"]


def test_half_a_character_at_the_end_is_replaced(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🦊")[:-1]
    *pushed, last = pieces(tokenizer, ids)
    assert "".join(pushed) == "a"
    assert set(last) == {REPLACEMENT}


def test_what_is_held_back_is_bounded(tokenizer: Tokenizer) -> None:
    for token in (tokenizer.encode("🦊")[-1], tokenizer.eos_ids[0]):
        stream = tokenizer.streamer()
        text = "".join(stream.push(token) for _ in range(5 * MAX_HELD))
        assert len(stream.pending) <= MAX_HELD
        assert text + stream.flush() == tokenizer.decode([token] * 5 * MAX_HELD)


def test_special_tokens_are_silent(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("the cat", add_special=True), *tokenizer.eos_ids]
    assert "".join(pieces(tokenizer, ids)) == "the cat"


def test_stories260k(stories260k: Path) -> None:
    tokenizer = Tokenizer.load(stories260k)
    text = "Once upon a time, in a 盆景 garden, there was a 🌳."
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == text
