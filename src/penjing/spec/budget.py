"""What must hold: limits of size, loss, speed and memory, and what to be best at within them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penjing.spec.base import Fraction, Spec

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
DECIMAL = {"KB": 1e3, "MB": 1e6, "GB": 1e9}
BINARY = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
BYTES = DECIMAL | BINARY | {"B": 1.0}


def parse_with_units(value: object, units: dict[str, float], example: str) -> object:
    """A number with one of these units, as `25ms`; a plain number is in the last of them."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    unit = next((unit for unit in units if text.lower().endswith(unit.lower())), "")
    try:
        return float(text.removesuffix(text[len(text) - len(unit) :])) * (units[unit] if unit else 1.0)
    except ValueError:
        raise ValueError(f"{value!r} is no number with a unit, like {example}") from None


def parse_seconds(value: object) -> object:
    """Accept `25ms` and 0.025 alike."""
    return parse_with_units(value, SECONDS, "25ms or 0.5s")


def parse_bytes(value: object) -> object:
    """Accept `4GiB`, `4G` and 4294967296 alike."""
    found = parse_with_units(value, BYTES, "4GiB or 500MB")
    return int(found) if isinstance(found, float) and math.isfinite(found) else found


Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]
Objective = Literal["size", "loss", "latency", "throughput", "cost"]


class Budget(Spec):
    """What an artifact must satisfy to be published.

    max_size: all tensor bytes of the artifact over the checkpoint's tensor bytes.
    max_loss: the upper confidence bound of the mean paired NLL difference per token is at most
    ln(1 + max_loss), that is, perplexity rises by at most this fraction.
    confidence: of that one-sided bound.
    max_latency: seconds between two tokens of one answer, while `streams` are being written.
    min_throughput: decoded tokens a second, of all `streams` together.
    max_ram: bytes of physical memory of a process that serves them.
    """

    max_size: Fraction | None = None
    max_loss: Fraction | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    max_latency: Seconds | None = None
    min_throughput: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_ram: Bytes | None = None
    streams: int = Field(default=1, ge=1, le=256)

    @property
    def limits_anything(self) -> bool:
        """Whether there is a limit to keep."""
        limits = (self.max_size, self.max_loss, self.max_latency, self.min_throughput, self.max_ram)
        return any(limit is not None for limit in limits)

    @property
    def max_seconds(self) -> float | None:
        """The most seconds of a decoding step: what latency and throughput ask for, whichever is less."""
        limits = [self.max_latency] if self.max_latency is not None else []
        if self.min_throughput is not None:
            limits.append(self.streams / self.min_throughput)
        return min(limits, default=None)

    @property
    def max_nll_increase(self) -> float | None:
        """The loss budget in nats per token."""
        return None if self.max_loss is None else math.log1p(self.max_loss)
