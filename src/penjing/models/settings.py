"""config.json as published, old spelling or new: typed access, and errors that name the key."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penjing.artifact.config import RopeConfig
from penjing.errors import CorruptCheckpointError, UnsupportedConfigError

LARGEST = sys.float_info.max
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
ROPE_KEYS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}


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

    def number(self, key: str, default: float) -> float:
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

    def token_ids(self, key: str, default: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
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
        return () if key in self.data else default

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

    def rope(self) -> RopeConfig:
        """Rotary embedding from `rope_parameters` (new) or `rope_scaling` and `rope_theta` (old)."""
        table = self.data.get("rope_parameters") or self.data.get("rope_scaling") or {}
        if not isinstance(table, dict) or any(isinstance(value, dict) for value in table.values()):
            raise self.unsupported("rope_parameters", table, "one table for all layers")
        theta = self.positive("rope_theta", table.get("rope_theta", self.data.get("rope_theta")), 10000.0)
        kind = table.get("rope_type", table.get("type", "default"))
        if kind not in ROPE_TYPES:
            raise self.unsupported("rope_type", kind, ", ".join(ROPE_TYPES))
        self.check_rope_extras(table)
        if kind == "default":
            return RopeConfig(theta=theta)
        return self.scaled_rope(kind, theta, table)

    def check_rope_extras(self, table: dict[str, Any]) -> None:
        """Refuse variations that the engine does not compute."""
        for key, neutral in (
            ("partial_rotary_factor", 1.0),
            ("mscale", None),
            ("mscale_all_dim", None),
            ("truncate", True),
        ):
            value = table.get(key, self.data.get(key))
            if value is not None and value != neutral:
                raise self.unsupported(key, value, f"{neutral!r}")

    def scaled_rope(self, kind: Any, theta: float, table: dict[str, Any]) -> RopeConfig:
        """linear, llama3 or yarn, each with the keys it needs."""
        original = self.data.get("original_max_position_embeddings")
        original = table.get("original_max_position_embeddings") if original is None else original
        original = self.integer("max_position_embeddings") if original is None else original
        self.positive("rope_parameters.original_max_position_embeddings", original)
        values = {**table, "original_max_position_embeddings": original}
        for key in ROPE_KEYS[kind]:
            self.positive(f"rope_parameters.{key}", values.get(key))
        optional = {
            key: None if values.get(key) is None else self.positive(key, values[key])
            for key in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
            if kind != "linear"
        }
        return RopeConfig(
            type=kind,
            theta=theta,
            factor=self.positive("factor", values["factor"]),
            original_max_positions=None if kind == "linear" else int(original),
            **optional,
        )
