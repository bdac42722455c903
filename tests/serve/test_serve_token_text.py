"""Texts and bytes of single tokens, in the two ways that vocabularies spell bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from penjing.serve.token_text import TokenText
from penjing.text import Tokenizer

WORDS = "the moss m\N{LATIN SMALL LETTER O WITH DIAERESIS}ss \N{EVERGREEN TREE} a  b\n"


@pytest.fixture(params=["byte level", "byte fallback"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_directory: Path, tmp_path: Path) -> Tokenizer:
    if request.param == "byte level":
        return Tokenizer.load(tokenizer_directory)
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *"abhemost", "\N{LOWER ONE EIGHTH BLOCK}m"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            [("\N{LOWER ONE EIGHTH BLOCK}", "m")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer.load(tmp_path)


def test_bytes_of_tokens_join_to_the_text(tokenizer: Tokenizer) -> None:
    token_text = TokenText(tokenizer)
    tokens = tokenizer.encode(WORDS)
    joined = b"".join(token_text.bytes(token) for token in tokens).decode()
    assert joined.lstrip(" ") == WORDS
    assert sum(token_text.num_characters(token) for token in tokens) == len(joined)


def test_labels_are_distinct_where_texts_are_not(tokenizer: Tokenizer) -> None:
    token_text = TokenText(tokenizer)
    parts = tokenizer.encode("\N{EVERGREEN TREE}")[-4:]
    labels = [token_text.label(token) for token in parts]
    assert labels == [f"bytes:\\x{byte:02x}" for byte in "\N{EVERGREEN TREE}".encode()]


def test_a_leading_blank_belongs_to_the_token(tokenizer: Tokenizer) -> None:
    token_text = TokenText(tokenizer)
    texts = [token_text.text(token) for token in tokenizer.encode("moss moss")]
    assert any(text.startswith(" m") for text in texts)


def test_special_tokens_show(tokenizer_directory: Path) -> None:
    token_text = TokenText(Tokenizer.load(tokenizer_directory))
    assert (token_text.text(0), token_text.bytes(1)) == ("<s>", b"</s>")
