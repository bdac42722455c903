"""Whether a teacher and a student read the same tokens: logits compare token by token, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from penjing.errors import TokenizerError, VocabularyMismatchError
from penjing.models.checkpoint import Checkpoint
from penjing.spec import canonical_json

TOKENIZER_FILE = "tokenizer.json"
ABOUT_BATCHES = ("padding", "truncation")  # what a library wrote down of its last use


def check_same_tokens(teacher: Checkpoint, student: Checkpoint) -> None:
    """Raises VocabularyMismatchError where vocabularies have different sizes, or tokenizers differ."""
    check_vocabulary_sizes(teacher.config.vocab_size, student.config.vocab_size)
    if tokenizer_hash(teacher.path) != tokenizer_hash(student.path):
        raise VocabularyMismatchError(
            f"{student.path}: its {TOKENIZER_FILE} is not that of {teacher.path}: a student needs its "
            "teacher's tokenizer"
        )


def check_vocabulary_sizes(teacher: int, student: int) -> None:
    """Raises VocabularyMismatchError where they differ."""
    if teacher != student:
        raise VocabularyMismatchError(
            f"the teacher has {teacher} tokens and the student {student}: choose a student with the "
            "teacher's vocabulary"
        )


def tokenizer_hash(directory: Path) -> str:
    """SHA-256 (hex) of a checkpoint's tokenizer.json, however it is laid out; of nothing, if it has none.

    Raises TokenizerError for a file that is no JSON object.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return hashlib.sha256().hexdigest()
    try:
        settings = json.loads(path.read_bytes())
        kept = {name: value for name, value in settings.items() if name not in ABOUT_BATCHES}
        spelling = canonical_json(kept).encode("utf-8", "surrogatepass")
    except (ValueError, AttributeError, RecursionError) as error:
        raise TokenizerError(f"{path}: is not a tokenizer's JSON ({error}); download it again") from None
    return hashlib.sha256(spelling).hexdigest()
