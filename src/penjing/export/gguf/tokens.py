"""Tokens as GGUF lists them, and the error for what it has no words for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penjing.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens


def refused(path: Path, what: str) -> TokenizerError:
    """The error for a part that cannot be said."""
    return TokenizerError(f"{path}: llama.cpp cannot say {what}; leave the tokenizer out (--no-tokenizer)")


def token_table(table: dict[str, Any], vocab_size: int, path: Path) -> tuple[list[str], list[int]]:
    """Text and type of every token; ids without a token, of padded vocabularies, are unused."""
    texts = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [UNUSED] * vocab_size
    vocab: Mapping[str, int] = table["model"]["vocab"]
    highest = max([*vocab.values(), *(token["id"] for token in table["added_tokens"])])
    if highest >= vocab_size:
        raise TokenizerError(
            f"{path}: has a token {highest}, and the model knows {vocab_size}; use the model's own tokenizer"
        )
    unknown = table["model"].get("unk_token")
    fallback = table["model"].get("byte_fallback")
    for token, index in vocab.items():
        texts[index] = token
        is_byte = fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        types[index] = BYTE if is_byte else UNKNOWN if token == unknown else NORMAL
    for token in table["added_tokens"]:
        texts[token["id"]] = token["content"]
        if token["content"] != unknown:
            types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    return texts, types
