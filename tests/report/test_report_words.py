"""Every language has every word, and the same places in it; and no word is there for nothing."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import penjing
from penjing.report.words import LANGUAGES, PHRASES, words

SOURCES = [path.read_text() for path in (Path(penjing.__file__).parent / "report").glob("*.py")]
PREFIXES = (
    *("status", "seal", "kind", "time", "unit", "bound", "regime", "objective", "limit", "claim", "footer"),
    *("sides", "stage"),
)


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_say_everything() -> None:
    for name, phrase in PHRASES.items():
        assert phrase.en, name
        assert phrase.zh, name
        assert places(phrase.en) == places(phrase.zh), name


def test_every_word_asked_for_is_there() -> None:
    asked = {name for source in SOURCES for name in re.findall(r'say\("([^"{]+)"\)', source)}
    assert len(asked) > 50
    assert asked <= set(PHRASES)


def test_every_word_is_used() -> None:
    elsewhere = "".join(source for source in SOURCES if "PHRASES: dict" not in source)
    composed = tuple(f"{prefix}." for prefix in PREFIXES)  # names that are put together
    unused = {
        name
        for name in PHRASES
        if not re.search(rf"[\"']{re.escape(name)}[\"']", elsewhere) and not name.startswith(composed)
    }
    assert not unused


def test_an_unknown_word_is_an_error() -> None:
    for language in LANGUAGES:
        with pytest.raises(KeyError):
            words(language)("no such word")
