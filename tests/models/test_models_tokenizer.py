from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
import tokenizers

from penjing.errors import MissingExtraError, TokenizerError
from penjing.models import needs_conversion, text_files
from penjing.text import Tokenizer

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "a tray, a tree and 42 stones",
    "wind in the pines",
]


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")
    directory = tmp_path_factory.mktemp("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 5),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",'
        ' "add_bos_token": true}'
    )
    return directory


def test_copies_what_is_there(tmp_path: Path, stories260k: Path) -> None:
    names = [path.name for path in text_files(stories260k, tmp_path)]
    assert names == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert not needs_conversion(stories260k)
    assert text_files(tmp_path, tmp_path) == []


def test_sentencepiece_is_converted(tmp_path: Path, sentencepiece_model: Path) -> None:
    pytest.importorskip("transformers")
    sentencepiece = pytest.importorskip("sentencepiece")
    assert needs_conversion(sentencepiece_model)
    for path in text_files(sentencepiece_model, tmp_path):
        if path.parent != tmp_path:
            shutil.copy(path, tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(str(sentencepiece_model / "tokenizer.model"))
    for text in [*SENTENCES, "An unseen word, 盆景!"]:
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("a", add_special=True)[0] == tokenizer.bos_id == reference.bos_id()


def test_vocabulary_and_merges_are_converted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    source, converted = tmp_path / "source", tmp_path / "converted"
    source.mkdir()
    converted.mkdir()
    reference = tokenizers.ByteLevelBPETokenizer()
    reference.train_from_iterator(
        SENTENCES, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False
    )
    reference.save_model(str(source))
    (source / "config.json").write_text('{"model_type": "qwen2"}')
    (source / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>"}'
    )
    for path in text_files(source, converted):
        if path.parent != converted:
            shutil.copy(path, converted)
    tokenizer = Tokenizer.load(converted)
    text = "the quick 盆景 fox"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("the fox") == reference.encode("the fox").ids
    assert tokenizer.eos_ids == (reference.token_to_id("<|endoftext|>"),)


def test_conversion_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"penjing\[optimize\]"):
        text_files(tmp_path, tmp_path)


def test_tokenizer_that_cannot_be_converted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer.model").write_bytes(b"not a sentencepiece model")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TokenizerError, match="cannot be converted"):
        text_files(tmp_path, tmp_path)
