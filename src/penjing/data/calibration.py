"""Calibration text: documents, one after another, cut into sequences of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.data.documents import read_documents
from penjing.errors import EmptyDataError
from penjing.text import Tokenizer

# Passages of Shakespeare (public domain), and of Penjing's own documents and sources: prose, markup, code.
BUILT_IN_TEXT = Path(__file__).with_name("calibration.jsonl")
MOST_OF_DOCUMENT = 4  # sequences: many documents have a say, as long as there are many
CHARACTERS_PER_TOKEN = 32  # more than any tokenizer reaches on text


def calibration_sequences(
    paths: Sequence[Path], tokenizer: Tokenizer, count: int, length: int
) -> NDArray[np.int64]:
    """Token ids [n, length] of texts, n = `count`, or less if that is all there is.

    Every document begins with the beginning-of-text token, or the end-of-text token where there is none.
    Raises EmptyDataError where the text does not fill one sequence, DataError for what cannot be read.
    """
    for most in (MOST_OF_DOCUMENT * length, None):
        found: list[list[int]] = []
        waiting: list[int] = []
        for document in tokenized(paths, tokenizer, most):
            waiting += document
            while len(waiting) >= length and len(found) < count:
                found.append(waiting[:length])
                waiting = waiting[length:]
            if len(found) == count:
                return np.array(found, np.int64)
    if not found:
        names = ", ".join(path.name for path in paths)
        raise EmptyDataError(f"{names}: too little text for {length} tokens of calibration; give more")
    return np.array(found, np.int64)


def tokenized(paths: Sequence[Path], tokenizer: Tokenizer, most: int | None) -> Iterator[list[int]]:
    """Documents as token ids, at most `most` of each."""
    starts = [tokenizer.bos_id] if tokenizer.bos_id is not None else list(tokenizer.eos_ids[:1])
    for document in chain.from_iterable(map(read_documents, paths)):
        text = document.text if most is None else document.text[: most * CHARACTERS_PER_TOKEN]
        yield [*starts, *tokenizer.encode(text)][:most]
