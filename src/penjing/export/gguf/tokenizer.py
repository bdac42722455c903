"""A tokenizer in llama.cpp's terms: byte-level BPE (`gpt2`), or what SentencePiece makes (`llama`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penjing.errors import TokenizerError
from penjing.export.gguf.byte_level import byte_level_keys
from penjing.export.gguf.file import Value
from penjing.export.gguf.sentencepiece import sentencepiece_keys
from penjing.export.gguf.tokens import refused, token_table
from penjing.text import Tokenizer

ENDS = ("eos", "eot", "eom")  # keys for tokens that end a text, a turn, a message: readers stop at each


def tokenizer_keys(
    directory: Path, vocab_size: int, eos_ids: tuple[int, ...]
) -> tuple[dict[str, Value], list[str]]:
    """Every `tokenizer.` key, and what llama.cpp will do otherwise, a line each.

    eos_ids: the tokens that end a text, as the model's configuration has them. Raises TokenizerError, naming
    the part of tokenizer.json that llama.cpp has no words for.
    """
    loaded = Tokenizer.load(directory)
    path = directory / "tokenizer.json"
    table = json.loads(path.read_text("utf-8"))
    model = table["model"]
    if model.get("type") != "BPE":
        raise refused(path, f"a model of type {model.get('type')}")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise refused(path, "marks on parts of words")
    texts, types = token_table(table, vocab_size, path)
    keys, said = (
        sentencepiece_keys(table, texts, types, path)
        if model.get("byte_fallback")
        else byte_level_keys(table, path)
    )
    keys |= {"ggml.tokens": texts, "ggml.token_type": types}
    keys |= special_keys(loaded, eos_ids)
    if loaded.template is not None:
        keys["chat_template"] = loaded.template
    said += differences(table)
    return {f"tokenizer.{key}": value for key, value in keys.items()}, said


def special_keys(loaded: Tokenizer, eos_ids: tuple[int, ...]) -> dict[str, Value]:
    """Tokens with a part to play, and which of them a text gets unasked."""
    around = loaded.encode("", add_special=True)
    keys: dict[str, Value] = {
        "ggml.add_bos_token": bool(around) and around[0] == loaded.bos_id,
        "ggml.add_eos_token": len(around) > 1 and around[-1] in loaded.eos_ids,
    }
    if loaded.bos_id is not None:
        keys["ggml.bos_token_id"] = loaded.bos_id
    own = loaded.special_tokens.get("eos_token")
    first = [] if own is None else [loaded.backend.token_to_id(own)]
    ends = dict.fromkeys(index for index in (*first, *eos_ids, *loaded.eos_ids) if index is not None)
    if len(ends) > len(ENDS):
        raise TokenizerError(
            f"{loaded.directory}: {len(ends)} tokens end a text, and llama.cpp can be told of {len(ENDS)}; "
            "leave the tokenizer out (--no-tokenizer)"
        )
    for name, index in zip(ENDS, ends, strict=False):
        keys[f"ggml.{name}_token_id"] = index
    for name, key in (("unk_token", "unknown"), ("pad_token", "padding")):
        token = loaded.special_tokens.get(name)
        found = None if token is None else loaded.backend.token_to_id(token)
        if found is not None:
            keys[f"ggml.{key}_token_id"] = int(found)
    return keys


def differences(table: dict[str, Any]) -> Iterator[str]:
    """What llama.cpp does otherwise to a text."""
    if (table.get("normalizer") or {}).get("type") == "NFC":
        yield "llama.cpp does not bring text to NFC before it cuts it into tokens, as the tokenizer does"
    greedy = [token["content"] for token in table["added_tokens"] if token["lstrip"] or token["rstrip"]]
    if greedy:
        yield f"llama.cpp keeps the spaces beside {greedy[0]}, which the tokenizer drops"
