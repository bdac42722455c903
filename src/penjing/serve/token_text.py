"""The text and the exact bytes of single tokens, as logprobs report them."""

from __future__ import annotations

import re
from functools import lru_cache

from penjing.text import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
FALLBACK_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CACHED_TOKENS = 1 << 16


def byte_level_alphabet() -> dict[str, int]:
    """Character to byte in byte-level vocabularies (Radford et al. 2019); printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class TokenText:
    """Decodes one token as it reads inside a text, where a leading blank counts and special tokens show."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before = tokenizer.encode("a")[-1:]
        self._before_length = len(self._decode(self._before))
        self._alphabet = byte_level_alphabet()
        self.text = lru_cache(CACHED_TOKENS)(self._text)

    def bytes(self, token: int) -> bytes:
        """UTF-8, or the part of a character's bytes that this token is."""
        text = self.text(token)
        piece = self._tokenizer.backend.id_to_token(token)
        if REPLACEMENT not in text or piece is None:
            return text.encode()
        if fallback := FALLBACK_PIECE.fullmatch(piece):
            return bytes([int(fallback[1], 16)])
        if all(character in self._alphabet for character in piece):
            return bytes(self._alphabet[character] for character in piece)
        return text.encode()

    def label(self, token: int) -> str:
        """The text, or `bytes:` and the bytes where they are a part of a character, as OpenAI writes them."""
        text = self.text(token)
        if REPLACEMENT not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token))

    def num_characters(self, token: int) -> int:
        """Characters that begin in this token: bytes that do not continue one."""
        return sum(byte & 0xC0 != 0x80 for byte in self.bytes(token))

    def _text(self, token: int) -> str:
        return self._decode([*self._before, token])[self._before_length :]

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special=False)
