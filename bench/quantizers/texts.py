"""The token windows that every quantizer calibrates on and is judged by; they never overlap.

Evaluation is the text that ships with Seedling and that it never learned from. Calibration is the standard
library of the Python that runs this, of which Seedling learned, less every module that is held out, and less
every file that shares a tenth of its lines with one: the rules are those of scripts/seedling_corpus.py.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penjing.data.documents import read_documents
from penjing.models.embedded import SEEDLING, SEEDLING_TEXT
from penjing.optimize.documents import cut_windows
from penjing.text import Tokenizer

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import seedling_corpus as corpus

WINDOW_TOKENS = 256
CALIBRATION_WINDOWS = 256
EVALUATION_STRIDE = 2  # half of the text: the number of documents, not of windows, sets how sure a mean is


@dataclass(frozen=True)
class Windows:
    """Token ids int64 [windows, 256], and the document of each window, int64 [windows]."""

    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """Of the token ids."""
        return hashlib.sha256(self.tokens.astype("<i8").tobytes()).hexdigest()


def evaluation_windows() -> Windows:
    """Every second whole window of Seedling's held-out text."""
    tokenizer = Tokenizer.load(SEEDLING)
    texts = (document.text for document in read_documents(SEEDLING_TEXT))
    every = whole_windows([cut_windows(tokenizer.encode(text), WINDOW_TOKENS, None) for text in texts])
    return Windows(every.tokens[::EVALUATION_STRIDE], every.documents[::EVALUATION_STRIDE])


def calibration_windows() -> Windows:
    """One window from the midst of each of 256 files; which file and where, the hash of its path says."""
    tokenizer = Tokenizer.load(SEEDLING)
    chosen: list[list[list[int]]] = []
    for text in calibration_texts():
        windows = cut_windows(tokenizer.encode(text.text), WINDOW_TOKENS, None)
        whole = [window for window in windows if len(window) == WINDOW_TOKENS]
        if whole:
            place = int.from_bytes(hashlib.sha256(text.file.key.encode()).digest()[8:12], "big")
            chosen.append([whole[place % len(whole)]])
        if len(chosen) == CALIBRATION_WINDOWS:
            return whole_windows(chosen)
    raise SystemExit(f"quality: the standard library has only {len(chosen)} files to calibrate on")


def calibration_texts() -> Iterator[corpus.CleanText]:
    """Clean files of the standard library that have nothing of the held-out text, in the order of a hash."""
    held = {
        shingle
        for document in read_documents(SEEDLING_TEXT)
        for shingle in corpus.line_shingles(document.text)
    }
    files = corpus.standard_library_files(Path(sysconfig.get_paths()["stdlib"]))
    held_keys = {file.key for file in files if corpus.is_held_out(file.key)}
    ordered = sorted(files, key=lambda file: hashlib.sha256(file.key.encode()).digest())
    cleaned = (text for text in map(corpus.clean, ordered) if text is not None)
    return corpus.select(cleaned, held_keys, held)


def whole_windows(documents: list[list[list[int]]]) -> Windows:
    """Windows of full length of [documents][windows][tokens]."""
    kept = [
        (number, window)
        for number, windows in enumerate(documents)
        for window in windows
        if len(window) == WINDOW_TOKENS
    ]
    return Windows(
        np.array([window for _, window in kept], np.int64), np.array([number for number, _ in kept], np.int64)
    )
