"""From documents to the windows of tokens that are scored, and to disjoint parts of the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from penjing.data.documents import read_documents
from penjing.data.splits import split_of
from penjing.errors import SpecError
from penjing.measure.stats import MIN_UNITS
from penjing.spec import Spec
from penjing.text import Tokenizer

Tokens = list[int]
MAX_WINDOW = 512  # tokens
CHARACTERS_PER_TOKEN = (
    32  # more than any tokenizer reaches on text; so much is tokenized to find enough tokens
)

# The roles that a hash gives (data.splits), by the part that they make; `calibrate` is to learn from.
ROLES = (("tune", "stop"), ("report",))
ENOUGH_TO_LEARN_FROM, MOST_TO_LEARN_FROM = 200_000, 100_000_000  # characters


class TextRecord(Spec):
    """Which text was scored: its name (never a path), and SHA-256 over the token ids of its documents."""

    name: str
    sha256: str
    documents: int
    tokens: int


def read_tokens(data: Path, tokenizer: Tokenizer, limit: int | None) -> list[Tokens]:
    """Up to `limit` tokens of the documents under `data`, in order.

    Only the beginning of a long document is taken, so that many have a say, unless that leaves the limit
    unreached. Raises DataError for what cannot be read, EmptyDataError if there is no text, SpecError for a
    limit below 1.
    """
    check_limit(limit)
    spread = Part(limit, tokenizer)
    for document in read_documents(data):
        if spread.is_full:
            break
        spread.add(document.text)
    return spread.documents if spread.is_full else read_in_order(data, tokenizer, limit)


def read_in_order(data: Path, tokenizer: Tokenizer, limit: int | None) -> list[Tokens]:
    """The first `limit` tokens; the last document may be cut."""
    whole = Part(limit, tokenizer, spread=False)
    for document in read_documents(data):
        if whole.is_full:
            break
        whole.add(document.text)
    return whole.documents


class Parts(NamedTuple):
    """Disjoint tokenized documents. by_hash: whether text is left that is in neither."""

    choose: list[Tokens]
    claim: list[Tokens]
    by_hash: bool


def read_parts(data: Path, tokenizer: Tokenizer, limit: int | None, seed: int) -> Parts:
    """The documents under `data` to choose by, and those to claim from; half the limit each.

    By the hash of a document's text: equal texts fall together, and what is a claim's text today is nobody's
    calibration text tomorrow. Where that leaves a part with too few documents to bound a loss by, the first
    `limit` tokens are cut once, in the middle. Raises as `read_tokens` does.
    """
    choose, claim = hashed_parts(data, tokenizer, limit, seed)
    if min(len(choose), len(claim)) >= MIN_UNITS:
        return Parts(choose, claim, by_hash=True)
    return Parts(*cut_in_half(read_in_order(data, tokenizer, limit)), by_hash=False)


def write_learning_text(data: Path, path: Path, seed: int) -> bool:
    """Write as JSON lines the documents that are in no part that the hash makes; whether they are enough."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for document in read_documents(data):
            if split_of(document.digest, seed=seed) == "calibrate" and size < MOST_TO_LEARN_FROM:
                file.write(json.dumps({"text": document.text}) + "\n")
                size += len(document.text)
    return size >= ENOUGH_TO_LEARN_FROM


def hashed_parts(data: Path, tokenizer: Tokenizer, limit: int | None, seed: int) -> list[list[Tokens]]:
    """Disjoint parts of the documents, each of some roles that the hash gives, up to half the limit each."""
    check_limit(limit)
    half = None if limit is None else limit // 2
    taken = [Part(half, tokenizer) for _ in ROLES]
    for document in read_documents(data):
        if all(part.is_full for part in taken):
            break
        role = split_of(document.digest, seed=seed)
        for part, roles in zip(taken, ROLES, strict=True):
            if role in roles:
                part.add(document.text)
    return [part.documents for part in taken]


def check_limit(limit: int | None) -> None:
    """Raises SpecError for a limit that leaves no token."""
    if limit is not None and limit < 1:
        raise SpecError(f"tokens is {limit}: it must be at least 1")


class Part:
    """Tokenized documents, up to a limit of tokens in all (None: no limit).

    spread: whether to take no more of a document than a sixteenth of the limit, or a window if that is more.
    """

    def __init__(self, limit: int | None, tokenizer: Tokenizer, *, spread: bool = True) -> None:
        self.left = limit
        self.tokenizer = tokenizer
        self.documents: list[Tokens] = []
        self.most = limit
        if limit is not None and spread:
            self.most = max(MAX_WINDOW, limit // (2 * MIN_UNITS))

    @property
    def is_full(self) -> bool:
        """Whether nothing more would be taken."""
        return self.left == 0

    def add(self, text: str) -> None:
        """Take a text, without special tokens, as far as there is room."""
        if self.left is None or self.most is None:
            tokens = self.tokenizer.encode(text)
        else:
            room = min(self.left, self.most)
            tokens = self.tokenizer.encode(text[: room * CHARACTERS_PER_TOKEN])[:room]
            self.left -= len(tokens)
        if tokens:
            self.documents.append(tokens)


def window_length(max_positions: int, asked: int | None) -> int:
    """Tokens of a window: what was asked for, or 512, but never more than the model's positions."""
    return min(max_positions, MAX_WINDOW if asked is None else asked)


def cut_windows(document: Tokens, length: int, bos: int | None) -> list[Tokens]:
    """Windows of at most `length` tokens in which every token but the first is to be scored, each once.

    A window begins with the beginning-of-text token where the tokenizer has one, as the model was trained;
    else with the token before it, and then a document's first token is never scored.
    """
    stride = length - 1
    if bos is not None:
        return [[bos, *document[start : start + stride]] for start in range(0, len(document), stride)]
    return [document[start : start + length] for start in range(0, len(document) - 1, stride)]


def record_text(name: str, documents: Sequence[Tokens]) -> TextRecord:
    """Identify a tokenized text."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(np.array([len(document), *document], "<u4").tobytes())
    return TextRecord(
        name=name,
        sha256=digest.hexdigest(),
        documents=len(documents),
        tokens=sum(map(len, documents)),
    )


def cut_in_half(documents: Sequence[Tokens]) -> tuple[list[Tokens], list[Tokens]]:
    """The text before and after its middle token."""
    left = sum(map(len, documents)) // 2
    first: list[Tokens] = []
    second: list[Tokens] = []
    for document in documents:
        first += [document[:left]] if left > 0 else []
        second += [document[max(left, 0) :]] if left < len(document) else []
        left -= len(document)
    return first, second
