"""Teacher and student read the same tokens, or are told why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import LLAMA, write_checkpoint

from penjing.distill.vocabulary import check_same_tokens, tokenizer_hash
from penjing.errors import TokenizerError, VocabularyMismatchError
from penjing.models import Checkpoint

TOKENIZER = {"version": "1.0", "truncation": None, "model": {"vocab": {"a": 0, "\u00e4": 1}}}


def checkpoint(path: Path, vocabulary: int = 50, tokenizer: object = TOKENIZER) -> Checkpoint:
    write_checkpoint(path, LLAMA | {"vocab_size": vocabulary})
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return Checkpoint.open(path)


def test_vocabularies_and_tokenizers_must_agree(tmp_path: Path) -> None:
    teacher = checkpoint(tmp_path / "teacher")
    check_same_tokens(teacher, checkpoint(tmp_path / "same"))
    laid_out = checkpoint(tmp_path / "other_layout", tokenizer=TOKENIZER | {"truncation": {"max_length": 5}})
    (laid_out.path / "tokenizer.json").write_text(json.dumps(TOKENIZER, indent=3, ensure_ascii=False))
    check_same_tokens(teacher, laid_out)
    with pytest.raises(VocabularyMismatchError, match="the teacher has 50 tokens and the student 51"):
        check_same_tokens(teacher, checkpoint(tmp_path / "larger", 51))
    other = checkpoint(tmp_path / "other", tokenizer=TOKENIZER | {"model": {"vocab": {"b": 0, "a": 1}}})
    with pytest.raises(VocabularyMismatchError, match=r"its tokenizer\.json is not that of"):
        check_same_tokens(teacher, other)


def test_a_tokenizer_that_is_absent_or_broken(tmp_path: Path) -> None:
    assert len(tokenizer_hash(tmp_path)) == 64
    for text in ("{", "[]", '{"a": NaN}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(TokenizerError, match="is not a tokenizer's JSON"):
            tokenizer_hash(tmp_path)
