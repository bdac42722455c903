"""Text to tokens and back, and chat templates."""

from penjing.text.stream import TextStream
from penjing.text.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer"]
