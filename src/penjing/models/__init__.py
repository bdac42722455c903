"""Models as published: a lazy checkpoint reader, the table of families, and their text files."""

from penjing.models.checkpoint import Checkpoint
from penjing.models.tokenizer import needs_conversion, text_files

__all__ = ["Checkpoint", "needs_conversion", "text_files"]
