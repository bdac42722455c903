"""What SentencePiece makes: llama.cpp merges by scores, where tokenizer.json has a list of merges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penjing.export.gguf.file import Value
from penjing.export.gguf.tokens import BYTE, NORMAL, refused

SPACE = "\u2581"  # what SentencePiece writes for a space
ADDED_SCORE = -1000.0
TOLERATED_PAIRS = 0.01  # of all merges: some converters leave single ones out


def sentencepiece_keys(
    table: dict[str, Any], texts: list[str], types: list[int], path: Path
) -> tuple[dict[str, Value], list[str]]:
    """Keys, and what will differ. The pair whose token has the highest score is merged first.

    So merges should be all pairs that make a token, as they are in what SentencePiece trains. Raises
    TokenizerError if they are not.
    """
    merges = [pair_of(item) for item in table["model"]["merges"]]
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    scores = [
        -float(ranks.get(text, len(ranks))) if kind == NORMAL else 0.0 if kind == BYTE else ADDED_SCORE
        for text, kind in zip(texts, types, strict=True)
    ]
    keys: dict[str, Value] = {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.scores": scores,
        "ggml.add_space_prefix": prefixed(table, path),
    }
    normal = {text for text, kind in zip(texts, types, strict=True) if kind == NORMAL}
    unmerged = list(pairs_left_out(normal, set(merges)))
    if not unmerged:
        return keys, []
    if len(unmerged) > TOLERATED_PAIRS * len(merges):
        raise refused(path, f"that {unmerged[0][0]!r} and {unmerged[0][1]!r} are not merged")
    first = " and ".join(map(repr, unmerged[0]))
    said = f"llama.cpp also merges {len(unmerged)} pairs of tokens that the tokenizer does not, as {first}"
    return keys, [said]


def pair_of(merge: str | list[str]) -> tuple[str, str]:
    """A merge in either spelling of tokenizer.json."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def pairs_left_out(tokens: set[str], merges: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Pairs of tokens that together are a token, and are not merged."""
    for token in sorted(tokens):
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair not in merges and pair[0] in tokens and pair[1] in tokens:
                yield pair


def prefixed(table: dict[str, Any], path: Path) -> bool:
    """Whether a text begins with a space of its own. Raises TokenizerError for other normalizers."""
    normalizer, before = table.get("normalizer") or {}, table.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    prefix = {"type": "Prepend", "prepend": SPACE}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    harmless = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    if steps in ([prefix, spaces], [spaces]) and before in ({}, harmless):
        return bool(steps[0] == prefix)
    if not steps and before.get("type") == "Metaspace" and not before.get("split", True):
        return bool(before.get("prepend_scheme", "always") != "never")
    kinds = [str(step.get("type")) for step in (*steps, before) if step]
    raise refused(path, f"the normalizer and pre-tokenizer {' + '.join(kinds)}")
