"""Tokenizers in GGUF's terms. bench/gguf.py asks llama.cpp itself; here its rules are written out again."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from checkpoints import LLAMA, write_checkpoint

from penjing.errors import TokenizerError
from penjing.export import export_gguf
from penjing.export.gguf.tokenizer import tokenizer_keys
from penjing.export.gguf.tokens import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
)
from penjing.models import Checkpoint
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset
from penjing.text import Tokenizer

SEEDLING = Path(__file__).parents[2] / "src" / "penjing" / "seedling"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": QWEN2}}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
STEPS = {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}


def edited(tmp_path: Path, **changes: Any) -> Path:
    """The seedling's tokenizer with other parts; `model.KEY` names a part of the model as `model_KEY`."""
    table = json.loads((SEEDLING / "tokenizer.json").read_text())
    for key, value in changes.items():
        if key.startswith("model_"):
            table["model"][key.removeprefix("model_")] = value
        else:
            table[key] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(SEEDLING / name, tmp_path / name)
    return tmp_path


def test_byte_level(tmp_path: Path) -> None:
    keys, notes = tokenizer_keys(SEEDLING, 2050, (0,))
    assert notes == []
    table = json.loads((SEEDLING / "tokenizer.json").read_text())
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert keys["tokenizer.ggml.merges"][0] == "Ġ Ġ"  # type: ignore[index]
    tokens: Any = keys["tokenizer.ggml.tokens"]
    assert {token: index for index, token in enumerate(tokens[:2048])} == table["model"]["vocab"]
    assert tokens[2048:] == ["[PAD2048]", "[PAD2049]"]
    types: Any = keys["tokenizer.ggml.token_type"]
    assert (types[0], types[1], types[2049]) == (CONTROL, NORMAL, UNUSED)
    assert keys["tokenizer.ggml.eos_token_id"] == 0
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert "message" in str(keys["tokenizer.chat_template"])


def test_pre_tokenizers_have_names(tmp_path: Path) -> None:
    keys, notes = tokenizer_keys(
        edited(tmp_path, pre_tokenizer=STEPS, normalizer={"type": "NFC"}), 2048, (0,)
    )
    assert keys["tokenizer.ggml.pre"] == "qwen2"
    assert "NFC" in notes[0]
    wide = {**SPLIT, "pattern": {"Regex": QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|")}}
    steps = {**STEPS, "pretokenizers": [wide, BYTES]}
    for ignore, name in ((True, "llama-bpe"), (False, "dbrx")):
        found, _ = tokenizer_keys(
            edited(tmp_path, pre_tokenizer=steps, model_ignore_merges=ignore), 2048, (0,)
        )
        assert found["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "the pre-tokenizer Whitespace"),
        ({"pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "the pre-tokenizer ByteLevel"),
        ({"pre_tokenizer": STEPS, "model_ignore_merges": True}, "a pre-tokenizer with the pattern"),
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
        ({"model_end_of_word_suffix": "</w>"}, "marks on parts of words"),
        ({"model_byte_fallback": True}, "the normalizer and pre-tokenizer ByteLevel"),
    ],
)
def test_what_llama_cpp_cannot_say_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason) as raised:
        tokenizer_keys(edited(tmp_path, **changes), 2048, (0,))
    assert "--no-tokenizer" in str(raised.value)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="has a token 2047, and the model knows 100"):
        tokenizer_keys(SEEDLING, 100, (0,))
    model = write_checkpoint(tmp_path / "model", LLAMA)
    shutil.copyfile(SEEDLING / "tokenizer.json", model / "tokenizer.json")
    tray = quantize_checkpoint(model, tmp_path / "tray", preset("int8")).path
    with pytest.raises(TokenizerError):
        export_gguf(tray, tmp_path / "out.gguf")
    assert "no tokenizer" in export_gguf(tray, tmp_path / "out.gguf", tokenizer=False).notes[0]


def test_sentencepiece_by_scores(stories260k: Path) -> None:
    """Merging the pair of the highest score, leftmost first, cuts texts as the tokenizer itself does."""
    config = Checkpoint.open(stories260k).config
    keys: dict[str, Any]
    keys, notes = tokenizer_keys(stories260k, config.vocab_size, config.eos_ids)
    assert notes == []
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (1, 2)
    types = keys["tokenizer.ggml.token_type"]
    assert (types[0], types[1], types[3], types[259]) == (UNKNOWN, CONTROL, BYTE, NORMAL)
    own = Tokenizer.load(stories260k)
    for text in ("Once upon a time, there was  a boy.\nHe'd 12 dogs!", "größer", "aaaa the theatre"):
        assert cut(text, keys) == own.encode(text)


def test_pairs_that_are_not_merged(stories260k: Path, tmp_path: Path) -> None:
    """One is said; in a tokenizer that lacks many, llama.cpp would cut most texts otherwise."""
    table = json.loads((stories260k / "tokenizer.json").read_text())
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(stories260k / name, tmp_path / name)
    merges = table["model"]["merges"]
    table["model"]["merges"] = merges[:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    _, (said,) = tokenizer_keys(tmp_path, 512, (2,))
    left, right = merges[-1]
    assert said.startswith("llama.cpp also merges 1 pairs")
    assert said.endswith(f"{left!r} and {right!r}")
    table["model"]["merges"] = merges[:-2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(TokenizerError, match="are not merged"):
        tokenizer_keys(tmp_path, 512, (2,))


def test_tokens_that_end_a_text(stories260k: Path) -> None:
    keys, _ = tokenizer_keys(stories260k, 512, (5, 2))
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot")] == [2, 5]
    with pytest.raises(TokenizerError, match=r"4 tokens end a text, and llama\.cpp can be told of 3"):
        tokenizer_keys(stories260k, 512, (3, 4, 5, 2))


def cut(text: str, keys: dict[str, Any]) -> list[int]:
    """llama.cpp's tokenizer of this kind (llama-vocab.cpp, llm_tokenizer_spm_session)."""
    ids = {token: index for index, token in enumerate(keys["tokenizer.ggml.tokens"])}
    scores = keys["tokenizer.ggml.scores"]
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [left + right for left, right in pairwise(symbols)]
        pairs = [(scores[ids[both]], -at) for at, both in enumerate(joined) if both in ids]
        if not pairs:
            break
        at = -max(pairs)[1]
        symbols[at : at + 2] = [joined[at]]
    return [
        index
        for symbol in symbols
        for index in (
            [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
        )
    ]
