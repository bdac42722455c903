"""Models as published: a lazy checkpoint reader, the table of families, and their text files."""

from penjing.models.checkpoint import Checkpoint
from penjing.models.embedded import SEEDLING, SEEDLING_NAME, SEEDLING_TEXT
from penjing.models.tokenizer import needs_conversion, text_files

__all__ = [
    "SEEDLING",
    "SEEDLING_NAME",
    "SEEDLING_TEXT",
    "Checkpoint",
    "needs_conversion",
    "text_files",
]
