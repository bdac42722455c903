"""config.json as published, old spelling or new: typed access, and errors that name the key."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penjing.errors import CorruptCheckpointError, UnsupportedConfigError

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Settings:
    """The keys of config.json (`data`) and generation_config.json (`generation`; empty if there is none)."""

    path: Path
    data: dict[str, Any]
    generation: dict[str, Any]

    def integer(self, key: str, default: int | None = None, *, most: int | None = None) -> int:
        """A positive integer; null counts as absent.

        Raises CorruptCheckpointError, or UnsupportedConfigError for more than `most`.
        """
        value = self.data.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            what = "is missing" if value is None else f"is {value!r}, not a positive whole number"
            raise CorruptCheckpointError(f"{self.path}: {key} {what}; download it again")
        if most is not None and value > most:
            raise self.unsupported(key, value, f"up to {most}")
        return value

    def count(self, key: str, default: int) -> int:
        """A whole number, 0 or more; null counts as absent. Raises CorruptCheckpointError."""
        return 0 if self.data.get(key) == 0 else self.integer(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number; null counts as absent. Raises CorruptCheckpointError."""
        return self.positive(key, self.data.get(key), default)

    def positive(self, key: str, value: object, default: float | None = None) -> float:
        """Check that the value of a key is a positive number."""
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
            what = "is missing" if value is None else f"is {value!r}, not a positive number"
            raise CorruptCheckpointError(f"{self.path}: {key} {what}; download it again")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; null counts as absent. Raises CorruptCheckpointError."""
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise CorruptCheckpointError(
                f"{self.path}: {key} is {value!r}, not true or false; download it again"
            )
        return value

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """Token ids, from generation_config.json first; one id, a list, or null for none.

        Raises CorruptCheckpointError, or UnsupportedConfigError for an id outside the vocabulary.
        """
        for source in (self.generation, self.data):
            if source.get(key) is not None:
                value = source[key]
                ids = value if isinstance(value, list) else [value]
                if not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
                    raise CorruptCheckpointError(f"{self.path}: {key} is {value!r}, not token ids")
                if not all(0 <= item < vocab_size for item in ids):
                    raise self.unsupported(key, value, f"ids from 0 to {vocab_size - 1}")
                return tuple(ids)
        return ()

    def unsupported(self, key: str, value: object, supported: str) -> UnsupportedConfigError:
        """The error for a setting that the engine lacks."""
        return UnsupportedConfigError(
            f"{self.path}: {key} is {value!r}, which is not supported; only {supported}"
        )

    def require(self, key: str, *, default: object, supported: tuple[object, ...]) -> None:
        """Refuse any value of a key but the supported ones; absent counts as the default."""
        value = self.data.get(key, default)
        if value not in supported:
            raise self.unsupported(key, value, " or ".join(repr(item) for item in supported))
