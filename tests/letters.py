"""A tokenizer of single letters, for models that need one."""

from __future__ import annotations

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

LETTERS = ["<unk>", "<s>", "</s>", *string.ascii_lowercase[:13], *string.ascii_uppercase[:8]]


def write_letters(directory: Path) -> None:
    """A tokenizer in which every letter is a token."""
    backend = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
