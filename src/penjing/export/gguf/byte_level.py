"""Byte-level BPE: merges, and the name of the pattern that cuts a text into words before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penjing.export.gguf.file import Value
from penjing.export.gguf.tokens import refused

LAST = r"\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE, CONTRACTION = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|"


def cased(end: str) -> str:
    """Words cut where a capital follows a small letter."""
    return f"{BEFORE}{UPPER}*{LOWER}+{end}|{BEFORE}{UPPER}+{LOWER}*{end}|"


# By the pattern that cuts a text into words, and whether a word that is a token is taken without merging.
PRE_TOKENIZERS = {
    (WORDS + r"\p{N}{1,3}|" + SIGNS + LAST, True): "llama-bpe",
    (WORDS + r"\p{N}{1,3}|" + SIGNS + LAST, False): "dbrx",
    (WORDS + r"\p{N}|" + SIGNS + LAST, False): "qwen2",
    (cased("") + r"\p{N}|" + PATHS + LAST, True): "tekken",
    (cased(CONTRACTION) + r"\p{N}{1,3}|" + PATHS + LAST, False): "gpt-4o",
    ("bytes", False): "gpt-2",
    ("digits, bytes", False): "smollm",
}


def byte_level_keys(table: dict[str, Any], path: Path) -> tuple[dict[str, Value], list[str]]:
    """Keys: the merges, and how a text is cut before; and nothing that will differ. Raises TokenizerError."""
    ignore = bool(table["model"].get("ignore_merges"))
    pattern = pattern_of(table.get("pre_tokenizer"), path)
    name = PRE_TOKENIZERS.get((pattern, ignore))
    if name is None:
        raise refused(path, f"a pre-tokenizer with the pattern {pattern!r}")
    normalizer = (table.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise refused(path, f"the normalizer {normalizer}")
    merges = [item if isinstance(item, str) else " ".join(item) for item in table["model"]["merges"]]
    return {"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": merges}, []


def pattern_of(pre_tokenizer: dict[str, Any] | None, path: Path) -> str:
    """The pattern by which a text is cut, or a name for GPT-2's own."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    kinds = [step["type"] for step in steps]
    last = steps[-1] if steps else {}
    plain = kinds[-1:] == ["ByteLevel"] and not last.get("add_prefix_space")
    if plain and kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "bytes"
    if plain and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and last.get("use_regex"):
        return "digits, bytes"
    if plain and kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
        split = steps[0]
        if split["behavior"] == "Isolated" and not split["invert"] and "Regex" in split["pattern"]:
            return str(split["pattern"]["Regex"])
    raise refused(path, f"the pre-tokenizer {' + '.join(kinds) or 'null'}")
