"""Windows that score every token once, and parts of the text that share nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.optimize.documents import (
    cut_in_half,
    cut_windows,
    read_parts,
    read_tokens,
    record_text,
    window_length,
    write_learning_text,
)
from penjing.text import Tokenizer


@given(st.integers(0, 300), st.integers(2, 64))
def test_every_token_is_scored_once_after_a_beginning(length: int, window: int) -> None:
    document = list(range(100, 100 + length))
    windows = cut_windows(document, window, bos=1)
    assert [token for cut in windows for token in cut[1:]] == document
    assert all(cut[0] == 1 and 2 <= len(cut) <= window for cut in windows)


@given(st.integers(0, 300), st.integers(2, 64))
def test_every_token_but_the_first_is_scored_once_without(length: int, window: int) -> None:
    document = list(range(length))
    windows = cut_windows(document, window, bos=None)
    assert [token for cut in windows for token in cut[1:]] == document[1:]
    assert all(2 <= len(cut) <= window for cut in windows)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1))
def test_halves_are_disjoint_and_complete(documents: list[list[int]]) -> None:
    first, second = cut_in_half(documents)
    flat = [token for document in documents for token in document]
    assert [token for part in (first, second) for document in part for token in document] == flat
    assert sum(map(len, first)) == len(flat) // 2
    assert all(map(len, first + second))


def test_windows_fit_the_model() -> None:
    assert (window_length(128, None), window_length(4096, None), window_length(128, 1000)) == (128, 512, 128)


def test_limits_are_kept(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(checkpoint)
    texts = [json.loads(line)["text"] for line in own_text.read_text().splitlines()]
    assert read_tokens(own_text, tokenizer, None) == [tokenizer.encode(text) for text in texts]
    assert sum(map(len, read_tokens(own_text, tokenizer, 1000))) == 1000
    long = tmp_path / "long.jsonl"
    long.write_text("\n".join(json.dumps({"text": letter * 5000}) for letter in "abcdefghij"))
    spread = read_tokens(long, tokenizer, 4096)
    assert [len(document) for document in spread] == [512] * 8
    assert [len(document) for document in read_tokens(long, tokenizer, 20_000)] == [5000] * 4


def test_parts_share_no_text(checkpoint: Path, own_text: Path, tmp_path: Path) -> None:
    """Not even where documents repeat."""
    doubled = tmp_path / "doubled.jsonl"
    doubled.write_text(own_text.read_text() + "\n" + own_text.read_text())
    tokenizer = Tokenizer.load(checkpoint)
    choose, claim, _ = read_parts(doubled, tokenizer, None, seed=0)
    assert len(choose) % 2 == len(claim) % 2 == 0
    assert 16 <= len(choose) + len(claim) < 120  # the rest is to learn from
    assert not {tuple(document) for document in choose} & {tuple(document) for document in claim}
    limited = read_parts(doubled, tokenizer, 3000, seed=0)
    assert [sum(map(len, part)) for part in limited[:2]] == [1500, 1500]
    assert limited != read_parts(doubled, tokenizer, 3000, seed=1)


def test_one_document_is_cut_in_the_middle(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("abcd" * 1000)
    choose, claim, _ = read_parts(path, Tokenizer.load(checkpoint), 3000, seed=0)
    assert (len(choose[0]), len(claim[0])) == (1500, 1500)


def test_what_is_learned_from_is_in_no_other_part(
    checkpoint: Path, own_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.load(checkpoint)
    parts = read_parts(own_text, tokenizer, None, seed=0)
    assert parts.by_hash
    assert not write_learning_text(own_text, tmp_path / "learn.jsonl", 0)  # so little is not worth reading
    monkeypatch.setattr("penjing.optimize.documents.ENOUGH_TO_LEARN_FROM", 100)
    assert write_learning_text(own_text, tmp_path / "learn.jsonl", 0)
    learned = read_tokens(tmp_path / "learn.jsonl", tokenizer, None)
    held = [{tuple(document) for document in part} for part in (parts.choose, parts.claim, learned)]
    assert all(len(part) >= 8 for part in held)
    assert len(set.union(*held)) == sum(map(len, held)) == 60


def test_a_text_is_known_by_its_tokens() -> None:
    one = record_text("a", [[1, 2], [3]])
    assert (one.documents, one.tokens) == (2, 3)
    assert one.sha256 == record_text("b", [[1, 2], [3]]).sha256
    assert one.sha256 != record_text("a", [[1], [2, 3]]).sha256


@pytest.mark.parametrize("limit", [1, 7])
def test_a_limit_below_a_document_cuts_it(checkpoint: Path, own_text: Path, limit: int) -> None:
    assert list(map(len, read_tokens(own_text, Tokenizer.load(checkpoint), limit))) == [limit]
