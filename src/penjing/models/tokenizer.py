"""The text files of a checkpoint: copied as they are, or converted once from older formats."""

from __future__ import annotations

from pathlib import Path

from penjing.errors import MissingExtraError, TokenizerError

COPIED_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
OLDER_FILES = ("tokenizer.model", "vocab.json")  # SentencePiece; byte-level BPE before tokenizer.json


def text_files(directory: Path, scratch: Path) -> list[Path]:
    """The files an artifact needs to read and write text, of those the checkpoint has.

    A checkpoint with an older tokenizer only gets its tokenizer.json written to `scratch`, by transformers.
    Raises MissingExtraError without transformers, TokenizerError if it cannot convert the tokenizer.
    """
    files = [directory / name for name in COPIED_FILES if (directory / name).is_file()]
    if needs_conversion(directory):
        files.append(convert_tokenizer(directory, scratch / "tokenizer.json"))
    return sorted(files, key=lambda path: path.name)


def needs_conversion(directory: Path) -> bool:
    """Whether there is a tokenizer, but no tokenizer.json."""
    if (directory / "tokenizer.json").is_file():
        return False
    return any((directory / name).is_file() for name in OLDER_FILES)


def convert_tokenizer(directory: Path, target: Path) -> Path:
    """Write the tokenizer.json that corresponds to a SentencePiece model or a vocabulary with merges."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtraError("optimize", "transformers", f"the tokenizer of {directory}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.save(str(target))
    except Exception as error:  # converters fail in their own many ways, all meaning "not this one"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TokenizerError(f"{directory}: its tokenizer cannot be converted ({reason})") from None
    return target
