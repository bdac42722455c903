"""Text to learn from, and two parts held apart from it: to stop by, and to report on.

Parts are dealt by document: no text that is learned from is judged by. Documents come from files or, without
any, from the built-in text and from a model that writes them itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penjing.data.calibration import BUILT_IN_TEXT
from penjing.data.documents import read_documents
from penjing.data.packing import PackedTokens, pack
from penjing.data.splits import split_of
from penjing.errors import EmptyDataError
from penjing.models import Checkpoint
from penjing.optimize.order import Order
from penjing.optimize.quantizing import possible
from penjing.optimize.self_written import self_written
from penjing.spec import Calibration
from penjing.text import Tokenizer
from penjing.text.tokenizer import TOKENIZER_FILE

SHARES = {"learn": 0.8, "stop": 0.1, "report": 0.1}
HELD_BLOCKS = 24  # of each part held apart, at most
HELD_OF_DOCUMENT = 4  # blocks of one document, at most, so that many have a say

Documents = Callable[[], Iterator[tuple[str, list[int]]]]  # (what tells a document from others, its tokens)


@dataclass(frozen=True)
class Wanted:
    """length: inputs of a block. blocks: as many to learn from, if there are; None takes all."""

    length: int
    blocks: int | None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Texts:
    """learn: a stream of tokens. stop, report: int64 [blocks, length + 1], inputs and their targets."""

    learn: PackedTokens
    length: int
    stop: NDArray[np.int64]
    report: NDArray[np.int64]

    @property
    def hash(self) -> str:
        """SHA-256 of all three parts."""
        digest = hashlib.sha256()
        for part in (self.learn.tokens, self.stop, self.report):
            digest.update(repr(part.shape).encode() + np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def sequences(self, count: int) -> NDArray[np.int64]:
        """The first inputs to learn from, int64 [count, length], or fewer if that is all there is."""
        most = min(count, self.learn.num_blocks(self.length))
        return self.learn.blocks(range(most), self.length)[:, :-1]


def gather_texts(writer: Checkpoint, order: Order, wanted: Wanted, directory: Path) -> Texts:
    """Pack the text of an order into `directory`, tokenized as `writer` reads it.

    writer: whose tokenizer it is and who writes, where there is no text, half of `wanted.blocks`. Raises
    DataError for what cannot be read, EmptyDataError for fewer than three blocks, TokenizerError.
    """
    data = list(order.data)
    tokenizer = tokenizer_of(writer, needed=bool(data))
    written = np.empty((0, 0), np.int64) if data else own_text(writer, wanted, order)

    def documents() -> Iterator[tuple[str, list[int]]]:
        for row in written:
            yield hashlib.sha256(row.tobytes()).hexdigest(), row.tolist()
        if tokenizer is not None:
            yield from read_all(data or [BUILT_IN_TEXT], tokenizer)

    separator = separator_of(writer, tokenizer)
    return dealt(documents, wanted, directory / "text.bin", writer.config.vocab_size, separator)


def tokenizer_of(model: Checkpoint, *, needed: bool) -> Tokenizer | None:
    """The tokenizer, or None if there is none and none is needed."""
    return Tokenizer.load(model.path) if needed or (model.path / TOKENIZER_FILE).is_file() else None


def own_text(writer: Checkpoint, wanted: Wanted, order: Order) -> NDArray[np.int64]:
    """What the model writes itself, int64 [n, length - 1]: with what ends it, a document fills a block."""
    assert wanted.blocks is not None, "text that is written has a size"
    share = possible(Calibration(sequence_tokens=wanted.length), writer, False, order.say).self_written
    # Some of them are held apart.
    count = round(share * wanted.blocks / SHARES["learn"])
    if count == 0:
        return np.empty((0, 0), np.int64)
    length = wanted.length - 1
    return self_written(writer, count, length, wanted.seed, threads=order.threads, progress=order.progress)


def read_all(paths: Iterable[Path], tokenizer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
    """Documents of files, each after the beginning-of-text token if there is one."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for path in paths:
        for document in read_documents(path):
            yield document.digest, [*start, *tokenizer.encode(document.text)]


def separator_of(model: Checkpoint, tokenizer: Tokenizer | None) -> int:
    """What ends a document: the end-of-text token or, of a model without one, what it begins with."""
    ends = () if tokenizer is None else tokenizer.eos_ids
    return (*ends, *model.config.eos_ids, *model.config.bos_ids, 0)[0]


def dealt(documents: Documents, wanted: Wanted, path: Path, vocabulary_size: int, separator: int) -> Texts:
    """The three parts by document or, where that leaves one empty, by place: the last blocks are held."""
    length = wanted.length
    dealer = Dealer(wanted, separator)
    learn: PackedTokens | None = None
    with suppress(EmptyDataError):  # all documents were held apart
        learn = pack(dealer.learned(documents()), path, vocabulary_size, separator)
    stop, report = (dealer.held_blocks(name) for name in ("stop", "report"))
    if learn is not None and learn.num_blocks(length) and len(stop) and len(report):
        return Texts(learn, length, stop, report)
    whole = pack((tokens for _, tokens in documents()), path, vocabulary_size, separator)
    return cut(whole, length)


def cut(whole: PackedTokens, length: int) -> Texts:
    """A stream cut by place. Raises EmptyDataError for fewer than three blocks."""
    total = whole.num_blocks(length)
    if total < 3:
        raise EmptyDataError(
            f"{whole.index.num_tokens} tokens make {total} blocks of {length}, and some are to be held "
            "apart: give more text, or shorter blocks"
        )
    held = max(1, min(HELD_BLOCKS, round(SHARES["stop"] * total)))
    first = total - 2 * held
    learn = PackedTokens(whole.index, whole.tokens[: first * length + 1])
    stop = whole.blocks(range(first, first + held), length)
    return Texts(learn, length, stop, whole.blocks(range(first + held, total), length))


@dataclass
class Dealer:
    """Sends documents to their parts, by the hash of their texts; once the held parts are full, all that is
    new is learned from.
    """

    wanted: Wanted
    separator: int
    held: dict[str, list[int]] = field(default_factory=lambda: {"stop": [], "report": []})
    groups: set[str] = field(default_factory=set)  # that are held apart

    def learned(self, documents: Iterable[tuple[str, list[int]]]) -> Iterator[list[int]]:
        """Those to learn from, until there are enough."""
        length, taken = self.wanted.length, 0
        most = None if self.wanted.blocks is None else self.wanted.blocks * length
        for group, tokens in documents:
            if self.hold(group, tokens):
                continue
            yield tokens
            taken += len(tokens) + 1
            if most is not None and taken > most and all(map(self.is_full, self.held)):
                return

    def hold(self, group: str, tokens: list[int]) -> bool:
        """Whether a document is held apart; so much of it is kept as there is need for."""
        if group in self.groups:
            return True
        name = split_of(group, SHARES, self.wanted.seed)
        if name not in self.held or self.is_full(name):
            return False
        self.groups.add(group)
        self.held[name] += [*tokens[: HELD_OF_DOCUMENT * self.wanted.length], self.separator]
        return True

    def is_full(self, name: str) -> bool:
        """Whether a part has all the blocks that it may have."""
        return len(self.held[name]) > HELD_BLOCKS * self.wanted.length

    def held_blocks(self, name: str) -> NDArray[np.int64]:
        """A part as blocks, int64 [blocks, length + 1]."""
        length, tokens = self.wanted.length, self.held[name]
        count = min(HELD_BLOCKS, max(0, len(tokens) - 1) // length)
        rows: list[Any] = [tokens[n * length : n * length + length + 1] for n in range(count)]
        return np.array(rows, np.int64).reshape(count, length + 1)
